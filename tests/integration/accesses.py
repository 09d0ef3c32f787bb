# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program did to files and sockets, as SELinux would be asked: from what strace wrote of its run.

`COMMAND` is how to trace a program. Each access is an object (a path, or the program's own sockets and processes), a
class and permissions of SELinux's (security/selinux/hooks.c in the kernel says which call needs which). What SELinux
does not see in a system call is not here: capabilities, messages of D-Bus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable, Optional

#: -D: the program stays the child of who starts it, and its signals are its own
COMMAND = (
    *("strace", "-D", "-f", "-qq", "-y", "-yy", "-s", "4096", "--seccomp-bpf"),
    *("-e", "trace=%file,%network,%desc,%process,kill,tgkill,sched_getaffinity,sched_setaffinity", "-o"),
)

#: stands for the program itself: its own sockets, pipes and processes
SELF = ""

_CALL = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)$", re.DOTALL)
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"\) += (?P<value>-?\d+|0x[0-9a-f]+|\?)(?P<more>.*)$", re.DOTALL)
_DESCRIPTOR = re.compile(r"^(?:-?\d+|AT_FDCWD)<(?P<target>.*)>$", re.DOTALL)
_DEVICE = re.compile(r"<(?:char|block) [^<>]*>$")
_MODE = re.compile(r"st_mode=(S_IF\w+)|stx_mode=(S_IF\w+)")
_SOCKETS = {
    ("AF_UNIX", "SOCK_STREAM"): "unix_stream_socket",
    ("AF_UNIX", "SOCK_SEQPACKET"): "unix_stream_socket",
    ("AF_UNIX", "SOCK_DGRAM"): "unix_dgram_socket",
    ("AF_INET", "SOCK_STREAM"): "tcp_socket",
    ("AF_INET6", "SOCK_STREAM"): "tcp_socket",
    ("AF_INET", "SOCK_DGRAM"): "udp_socket",
    ("AF_INET6", "SOCK_DGRAM"): "udp_socket",
    "NETLINK_ROUTE": "netlink_route_socket",
    "NETLINK_GENERIC": "netlink_generic_socket",
    "NETLINK_KOBJECT_UEVENT": "netlink_kobject_uevent_socket",
}
_KINDS = {
    "S_IFREG": "file",
    "S_IFDIR": "dir",
    "S_IFLNK": "lnk_file",
    "S_IFCHR": "chr_file",
    "S_IFBLK": "blk_file",
    "S_IFSOCK": "sock_file",
    "S_IFIFO": "fifo_file",
}


@dataclass(frozen=True)
class Access:
    """One permission on one object; `path` is absolute, or SELF."""

    path: str
    kind: str
    permission: str


@dataclass(frozen=True)
class _Call:
    name: str
    arguments: list[str]
    #: None for one that failed
    result: Optional[str]
    text: str


def read(text: str) -> set[Access]:
    """The accesses in what strace wrote."""
    found: set[Access] = set()
    # the start of the program is the right of who starts it
    started = False
    for call in _calls(text.splitlines()):
        if call.name == "execve" and not started:
            started = call.result is not None
            continue
        found.update(_accesses(call))
    return found


def _calls(lines: Iterable[str]) -> Iterator[_Call]:
    """The system calls; those that another thread's interrupted in the text are put together."""
    open_calls: dict[str, str] = {}
    for each in lines:
        line = each
        resumed = _RESUMED.match(line)
        if resumed:
            begun = open_calls.pop(resumed["pid"], None)
            if begun is None:
                continue
            line = begun + resumed["rest"]
        if line.endswith(_UNFINISHED):
            pid = line.split(" ", 1)[0]
            open_calls[pid] = line[: -len(_UNFINISHED)]
            continue
        call = _CALL.match(line)
        end = _RESULT.search(line)
        if call is None or end is None:
            continue
        value = end["value"]
        arguments = _split(line[call.start("rest") : end.start()])
        succeeded = not value.startswith("-") and value != "?"
        yield _Call(call["name"], arguments, value + end["more"] if succeeded else None, line)


def _split(text: str) -> list[str]:
    """The arguments of a call: commas in strings, brackets and the paths of descriptors do not count."""
    parts, depth, quoted, begin, position = [], 0, False, 0, 0
    while position < len(text):
        letter = text[position]
        if quoted:
            if letter == "\\":
                position += 1
            elif letter == '"':
                quoted = False
        elif letter == '"':
            quoted = True
        elif letter in "{[(<":
            depth += 1
        elif letter in "}])>" and depth:
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[begin:position].strip())
            begin = position + 1
        position += 1
    parts.append(text[begin:].strip())
    return parts


def _accesses(call: _Call) -> Iterator[Access]:
    handler = _HANDLERS.get(call.name)
    if handler is not None:
        yield from handler(call)


def _text(argument: str) -> Optional[str]:
    """A string that strace quotes; None for an address or a string that was cut."""
    if len(argument) < 2 or argument[0] != '"' or argument[-1] != '"':
        return None
    return argument[1:-1].encode("latin-1", "replace").decode("unicode_escape")


def _descriptor(argument: str) -> Optional[str]:
    found = _DESCRIPTOR.match(argument)
    return _DEVICE.sub("", found["target"]) if found else None


def _at(directory: str, name: str) -> Optional[str]:
    """A path that a call names by a directory's descriptor and a name."""
    path, base = _text(name), _descriptor(directory)
    if path is None:
        return None
    if path.startswith("/"):
        return os.path.normpath(path)
    return os.path.normpath(f"{base}/{path}") if base is not None and base.startswith("/") else None


def _kind(call: _Call, path: str) -> str:
    found = _MODE.search(call.text)
    if found:
        return _KINDS[found[1] or found[2]]
    return kind_of(path)


def kind_of(path: str) -> str:
    """The class of an object that a call does not tell."""
    if path.startswith("/dev/") and not path.startswith("/dev/shm"):
        return "chr_file"
    return "file"


def _on(path: Optional[str], kind: str, *permissions: str) -> Iterator[Access]:
    if path is not None:
        yield from (Access(path, kind, permission) for permission in permissions)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _path(argument: str) -> Optional[str]:
    text = _text(argument)
    return os.path.normpath(text) if text is not None and text.startswith("/") else None


def _open(call: _Call) -> Iterator[Access]:
    path, flags = _at(*call.arguments[:2]), call.arguments[2]
    if path is None:
        return
    real = path
    if call.result is not None:
        real = _descriptor(call.result.split(" ")[0]) or path
    if "O_PATH" in flags:
        return
    if "O_DIRECTORY" in flags:
        yield from _on(real, "dir", "open", "read")
        return
    kind = kind_of(real)
    yield from _on(real, kind, "open")
    if "O_RDWR" in flags:
        yield from _on(real, kind, "read", "write")
    elif "O_WRONLY" in flags:
        yield from _on(real, kind, "append" if "O_APPEND" in flags else "write")
    else:
        yield from _on(real, kind, "read")
    if "O_CREAT" in flags:
        yield from _on(real, kind, "create")
        yield from _on(_parent(real), "dir", "write", "add_name")


def _status(call: _Call) -> Iterator[Access]:
    if call.name in {"stat", "lstat"}:
        path = _path(call.arguments[0])
    elif call.name == "fstat" or _text(call.arguments[1]) == "":
        path = _descriptor(call.arguments[0])
        if path is None or not path.startswith("/"):
            return
    else:
        path = _at(*call.arguments[:2])
    if path is not None and call.result is not None:
        yield from _on(path, _kind(call, path), "getattr")
    else:
        yield from _on(path, "?", "search")


def _access(call: _Call) -> Iterator[Access]:
    at = call.name != "access"
    path = _at(*call.arguments[:2]) if at else _path(call.arguments[0])
    mode = call.arguments[2 if at else 1]
    yield from _on(path, "?", "search")
    for flag, permission in (("R_OK", "read"), ("W_OK", "write"), ("X_OK", "execute")):
        if flag in mode and call.result is not None and path is not None:
            yield from _on(path, kind_of(path), permission)


def _readlink(call: _Call) -> Iterator[Access]:
    path = _at(*call.arguments[:2]) if call.name == "readlinkat" else _path(call.arguments[0])
    if call.result is not None:
        yield from _on(path, "lnk_file", "read")
    else:
        yield from _on(path, "?", "search")


def _list(call: _Call) -> Iterator[Access]:
    yield from _on(_descriptor(call.arguments[0]), "dir", "read")


def _execute(call: _Call) -> Iterator[Access]:
    if call.result is not None:
        yield from _on(_path(call.arguments[0]), "file", "open", "read", "execute", "execute_no_trans", "map")


def _map(call: _Call) -> Iterator[Access]:
    target = _descriptor(call.arguments[4])
    if target is None or not target.startswith("/"):
        if "PROT_EXEC" in call.arguments[2] and "PROT_WRITE" in call.arguments[2]:
            yield Access(SELF, "process", "execmem")
        return
    yield from _on(target, kind_of(target), "map")
    if "PROT_EXEC" in call.arguments[2]:
        yield from _on(target, "file", "execute")


def _make_directory(call: _Call) -> Iterator[Access]:
    path = _path(call.arguments[0]) if call.name == "mkdir" else _at(*call.arguments[:2])
    if path is not None and call.result is not None:
        yield from _on(path, "dir", "create")
        yield from _on(_parent(path), "dir", "write", "add_name")


def _unlink(call: _Call) -> Iterator[Access]:
    at = call.name == "unlinkat"
    path = _at(*call.arguments[:2]) if at else _path(call.arguments[0])
    if path is None or call.result is None:
        return
    directory = call.name == "rmdir" or (at and "AT_REMOVEDIR" in call.arguments[2])
    yield from _on(path, "dir" if directory else "file", "rmdir" if directory else "unlink")
    yield from _on(_parent(path), "dir", "write", "remove_name")


def _rename(call: _Call) -> Iterator[Access]:
    if call.name == "rename":
        old, new = _path(call.arguments[0]), _path(call.arguments[1])
    else:
        old, new = _at(*call.arguments[:2]), _at(*call.arguments[2:4])
    if old is None or new is None or call.result is None:
        return
    yield from _on(old, "file", "rename")
    yield from _on(new, "file", "unlink")  # one that is there is replaced
    yield from _on(_parent(old), "dir", "write", "remove_name")
    yield from _on(_parent(new), "dir", "write", "add_name")


def _change(call: _Call) -> Iterator[Access]:
    path = _descriptor(call.arguments[0]) if call.name.startswith("f") else _path(call.arguments[0])
    if call.name == "fchmodat":
        path = _at(*call.arguments[:2])
    if path is not None and path.startswith("/") and call.result is not None:
        yield from _on(path, kind_of(path), "setattr")


def _by_descriptor(permission: str) -> Callable[[_Call], Iterator[Access]]:
    """The rule for calls whose first argument is an open file, which need one permission on it."""

    def rule(call: _Call) -> Iterator[Access]:
        path = _descriptor(call.arguments[0])
        if path is not None and path.startswith("/"):
            yield from _on(path, kind_of(path), permission)

    return rule


def _socket(call: _Call) -> Iterator[Access]:
    family, kind, protocol = call.arguments[:3]
    found = _SOCKETS.get(protocol) if family == "AF_NETLINK" else _SOCKETS.get((family, kind.split("|")[0]))
    name = found or f"socket of {family} {protocol}"
    for permission in ("create", "getattr", "read", "write", "getopt", "setopt", "ioctl"):
        yield Access(SELF, name, permission)
    if family == "AF_NETLINK":
        yield Access(SELF, name, "bind")
    if found == "netlink_route_socket":
        yield Access(SELF, name, "nlmsg_read")


def _address(call: _Call) -> Optional[str]:
    found = re.search(r'sun_path="([^"]+)"', call.text)
    return os.path.normpath(found[1]) if found and found[1].startswith("/") else None


def _connect(call: _Call) -> Iterator[Access]:
    path = _address(call)
    dgram = "UNIX-DGRAM" in call.arguments[0] or call.name != "connect"
    if path is not None and call.result is not None:
        yield Access(path, "sock_file", "write")
        yield Access(
            path, "unix_dgram_socket" if dgram else "unix_stream_socket", "sendto" if dgram else "connectto"
        )


def _bind(call: _Call) -> Iterator[Access]:
    path = _address(call)
    if path is not None and call.result is not None:
        yield Access(path, "sock_file", "create")
        yield from _on(_parent(path), "dir", "write", "add_name")
        for permission in ("bind", "listen", "accept"):
            yield Access(SELF, "unix_stream_socket", permission)


def _pair(call: _Call) -> Iterator[Access]:
    del call
    for permission in ("create", "read", "write", "getattr", "setopt"):
        yield Access(SELF, "unix_stream_socket", permission)


def _pipe(call: _Call) -> Iterator[Access]:
    del call
    for permission in ("read", "write", "getattr", "ioctl"):
        yield Access(SELF, "fifo_file", permission)


def _process(permission: str) -> Callable[[_Call], Iterator[Access]]:
    def accesses(call: _Call) -> Iterator[Access]:
        del call
        yield Access(SELF, "process", permission)

    return accesses


_HANDLERS: dict[str, Callable[[_Call], Iterator[Access]]] = {
    "openat": _open,
    **dict.fromkeys(("stat", "lstat", "fstat", "newfstatat", "statx"), _status),
    **dict.fromkeys(("access", "faccessat", "faccessat2"), _access),
    **dict.fromkeys(("readlink", "readlinkat"), _readlink),
    "getdents64": _list,
    "execve": _execute,
    "mmap": _map,
    **dict.fromkeys(("mkdir", "mkdirat"), _make_directory),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), _unlink),
    **dict.fromkeys(("rename", "renameat", "renameat2"), _rename),
    **dict.fromkeys(("chmod", "fchmod", "fchmodat", "chown", "fchown", "utimensat"), _change),
    "flock": _by_descriptor("lock"),
    "ioctl": _by_descriptor("ioctl"),
    "write": _by_descriptor("write"),
    "pwrite64": _by_descriptor("write"),
    "socket": _socket,
    "socketpair": _pair,
    "connect": _connect,
    "sendto": _connect,
    "sendmsg": _connect,
    "bind": _bind,
    **dict.fromkeys(("pipe", "pipe2"), _pipe),
    **dict.fromkeys(("clone", "clone3", "fork", "vfork"), _process("fork")),
    "sched_getaffinity": _process("getsched"),
    "sched_setaffinity": _process("setsched"),
    "kill": _process("signal"),
    "tgkill": _process("signal"),
}
