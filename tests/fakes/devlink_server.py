# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's side of generic netlink with one family, devlink, for a fake card.

Packets come over a Unix SEQPACKET socket: from a client that uses such a socket, or from any program whose
NETLINK_GENERIC sockets the preloaded `genl_shim.so` replaces. Messages are parsed and built with struct alone, so that
this checks independently what a client with a library sends. Every request is kept.

Numbers: include/uapi/linux/netlink.h, genetlink.h, devlink.h. Behaviour: net/netlink/, net/devlink/.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Optional

from tests.fakes.card import Card
from tests.fakes.hardware import DevlinkPort

CTRL_FAMILY = 0x10
DEVLINK_FAMILY = 0x2A
SET_OPTION = 0xFFFF  # not netlink: the shim passes a setsockopt() on

_DUMP, _MULTI, _ACK, _CAPPED, _TLVS = 0x300, 0x2, 0x4, 0x100, 0x200
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_OPTION_CAP_ACK, _OPTION_EXT_ACK = 10, 11

_GET, _NEW, _PORT_GET, _PORT_SET, _PORT_NEW, _ESWITCH_GET, _ESWITCH_SET, _INFO_GET = 1, 3, 5, 6, 7, 29, 30, 51
_BUS_NAME, _DEV_NAME, _PORT_INDEX, _PORT_TYPE, _IFINDEX, _NETDEV_NAME = 1, 2, 3, 4, 6, 7
_MODE, _INLINE_MODE, _ENCAP_MODE, _FLAVOUR, _NUMBER = 25, 26, 62, 77, 78
_DRIVER, _FIXED, _RUNNING, _STORED, _VERSION_NAME, _VERSION_VALUE = 98, 100, 101, 102, 103, 104
_PCI_PF, _PCI_VF, _FUNCTION, _EXTERNAL, _CONTROLLER = 127, 128, 145, 149, 150
_HW_ADDR, _CAPS = 1, 4
_MIGRATABLE = 2
_ETHERNET = 2

_GETFAMILY, _GETPOLICY = 3, 10
_CTRL_POLICY, _CTRL_OP_POLICY = 8, 9
_TYPE_NUL_STRING = 11

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_MODES = ("legacy", "switchdev", "switchdev_inactive")


@dataclass(frozen=True)
class Request:
    """A request as received: netlink type and flags, and the payload from the generic header on."""

    family: int
    flags: int
    payload: bytes

    @property
    def command(self) -> int:
        """Command of the generic header."""
        return self.payload[0]


@dataclass
class _Client:
    socket: socket.socket
    # A client without the shim cannot call setsockopt(): it gets the options that vfmigrate sets.
    options: dict[int, int] = field(default_factory=lambda: {_OPTION_CAP_ACK: 1, _OPTION_EXT_ACK: 1})


class DevlinkServer:
    """Answers for a card until closed; a thread for each client.

    `path` is where to listen, for the shim's FAKE_GENL; without it only `connect()` makes clients. A kernel that
    `narrows` no dumps (before 6.6) answers each for all devices, whatever it names.

    As in the kernel (devl_lock()), a request holds the lock of its PF's instance while it is worked on, and a dump of
    all devices takes one lock after the other. `delays` is how many seconds each of that takes for a PF, and
    `mode_change` how many a change of an eswitch mode takes.
    """

    def __init__(self, card: Card, path: Optional[Path] = None, *, narrows: bool = True) -> None:
        self.card = card
        self._narrows = narrows
        self.delays: dict[str, float] = {}
        self.mode_change = 0.0
        self._instances = {pf: threading.Lock() for pf in card.pfs}
        self._closed = threading.Event()
        self.requests: list[Request] = []  # of the devlink family, in order of arrival
        self._clients: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: Optional[socket.socket] = None
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener.bind(str(path))
            self._listener.listen()
            self._start(self._accept, self._listener)

    def __enter__(self) -> DevlinkServer:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return sum(thread.is_alive() for thread in self._threads if thread.name == "client")

    def connect(self) -> socket.socket:
        """Make a client's socket inside this process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._serve(_Client(ours))
        return theirs

    def close(self) -> None:
        """Stop answering and wait for the threads."""
        self._closed.set()
        for sock in [*self._clients, *([self._listener] if self._listener else [])]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [*self._clients, *([self._listener] if self._listener else [])]:
            sock.close()

    def _start(self, target: object, *arguments: object) -> None:
        name = "client" if target == self._answer_all else "listener"
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                self._serve(_Client(listener.accept()[0], options={}))

    def _serve(self, client: _Client) -> None:
        self._clients.append(client.socket)
        self._start(self._answer_all, client)

    def _answer_all(self, client: _Client) -> None:
        with contextlib.suppress(OSError):  # the client is gone
            while True:
                packet = client.socket.recv(1 << 16)
                if not packet:
                    return
                for message in self._answers(client, packet):
                    client.socket.send(message)

    def _answers(self, client: _Client, packet: bytes) -> Iterator[bytes]:
        length, family, flags, sequence, port = _HEADER.unpack_from(packet)
        payload = packet[_HEADER.size : length]
        if family == SET_OPTION:
            option, value = struct.unpack("=ii", payload)
            client.options[option] = value
            return
        dump = flags & _DUMP == _DUMP

        def message(kind: int, content: bytes, more_flags: int = 0) -> bytes:
            return _HEADER.pack(_HEADER.size + len(content), kind, more_flags, sequence, port) + content

        def verdict(number: int = 0, text: str = "") -> bytes:
            capped = number == 0 or bool(client.options.get(_OPTION_CAP_ACK))
            echo = packet[: _HEADER.size] if capped else packet[:length] + bytes(-length % 4)
            told = _string(1, text) if text and client.options.get(_OPTION_EXT_ACK) else b""
            content = struct.pack("=i", -number) + echo + told
            return message(_ERROR, content, _CAPPED * capped | _TLVS * bool(told))

        try:
            if family == DEVLINK_FAMILY:
                self.requests.append(Request(family, flags, payload))
            if dump and family == DEVLINK_FAMILY and not self._narrows:
                payload = payload[: _GENERIC.size]
            with self._locked(family, payload, dump=dump):
                contents = list(_dispatch(self.card, family, payload, dump=dump))
        except OSError as refusal:
            yield verdict(refusal.errno or errno.EIO, refusal.strerror or "")
            return
        except (KeyError, struct.error):
            yield verdict(errno.EINVAL, "Attribute missing or of the wrong size")
            return
        for content in contents:
            yield message(family, content, _MULTI if dump else 0)
        if dump:
            yield message(_DONE, struct.pack("=i", 0), _MULTI)
        elif flags & _ACK:
            yield verdict()

    @contextlib.contextmanager
    def _locked(self, family: int, payload: bytes, *, dump: bool) -> Iterator[None]:
        """Hold the lock of the instance that a request of devlink is about, for as long as it takes."""
        attributes = parse(payload[_GENERIC.size :])
        if family != DEVLINK_FAMILY:
            yield
            return
        if dump and _DEV_NAME not in attributes:
            for pf, instance in self._instances.items():
                with instance:
                    self._work(pf)
            yield
            return
        pf = attributes.get(_DEV_NAME, b"").rstrip(b"\0").decode()
        with self._instances.get(pf, contextlib.nullcontext()):
            self._work(pf)
            if payload[0] == _ESWITCH_SET:
                self._closed.wait(self.mode_change)
            yield

    def _work(self, pf: str) -> None:
        """Take as long as an answer for a PF takes; a delay that is taken away ends."""
        begun = time.monotonic()
        while time.monotonic() - begun < self.delays.get(pf, 0.0) and not self._closed.wait(0.002):
            pass


def _dispatch(card: Card, family: int, payload: bytes, *, dump: bool) -> Iterator[bytes]:
    """Answer one request; yields generic headers and their attributes."""
    command = payload[0]
    attributes = parse(payload[_GENERIC.size :])
    if family == CTRL_FAMILY:
        yield from _control(command, attributes, dump=dump)
    elif family != DEVLINK_FAMILY:
        raise OSError(errno.ENOENT, "")
    elif command == _GET:
        for pf in _instances(card, attributes, dump=dump):
            yield _generic(_NEW, _handle(pf))
    elif command == _PORT_GET:
        yield from _ports(card, attributes, dump=dump)
    elif command == _PORT_SET:
        _set_port(card, attributes)
    elif command == _ESWITCH_GET:
        pf = _instance(attributes)
        mode = _u16(_MODE, _MODES.index(card.eswitch_mode(pf)))
        yield _generic(_ESWITCH_GET, _handle(pf), mode, _u8(_INLINE_MODE, 0), _u8(_ENCAP_MODE, 1))
    elif command == _ESWITCH_SET:
        number = struct.unpack("=H", attributes[_MODE])[0]
        if number >= len(_MODES):
            raise OSError(errno.ERANGE, "integer out of range")
        card.set_eswitch_mode(_instance(attributes), _MODES[number])
    elif command == _INFO_GET:
        for pf in _instances(card, attributes, dump=dump):
            yield _info(card, pf)
    else:
        raise OSError(errno.EOPNOTSUPP, "")


def _control(command: int, attributes: dict[int, bytes], *, dump: bool) -> Iterator[bytes]:
    """Answer the generic netlink controller: CTRL_CMD_GETFAMILY and CTRL_CMD_GETPOLICY."""
    if command == _GETPOLICY and dump:
        yield from _policy()
        return
    if command != _GETFAMILY:
        raise OSError(errno.EOPNOTSUPP, "")
    if not dump and attributes.get(2, b"").rstrip(b"\0") != b"devlink":
        raise OSError(errno.ENOENT, "")
    group = _nest(7, _nest(1, _string(1, "config"), _u32(2, 9)))
    family = (_string(2, "devlink"), _u16(1, DEVLINK_FAMILY), _u32(3, 1), _u32(4, 0), _u32(5, 200), group)
    yield _GENERIC.pack(1, 2, 0) + b"".join(family)


def _policy() -> Iterator[bytes]:
    """Announce that dumps of ports have a policy and can be limited to one device (Linux 6.6)."""
    answer = _GENERIC.pack(_GETPOLICY, 2, 0) + _u16(1, DEVLINK_FAMILY)
    single, all_of = 0, 1
    yield answer + _nest(_CTRL_OP_POLICY, _nest(_PORT_GET, _u32(1, single), _u32(2, all_of)))
    for number in (_BUS_NAME, _DEV_NAME):
        yield answer + _nest(_CTRL_POLICY, _nest(all_of, _nest(number, _u32(1, _TYPE_NUL_STRING))))


def _instance(attributes: dict[int, bytes]) -> str:
    if _BUS_NAME not in attributes or _DEV_NAME not in attributes:
        raise OSError(errno.EINVAL, "")
    if attributes[_BUS_NAME].rstrip(b"\0") != b"pci":
        raise OSError(errno.ENODEV, "")
    return attributes[_DEV_NAME].rstrip(b"\0").decode()


def _instances(card: Card, attributes: dict[int, bytes], *, dump: bool) -> list[str]:
    """List the PFs that a request is about; a dump without a handle is about all of them."""
    if dump and _DEV_NAME not in attributes:
        return card.handles()
    pf = _instance(attributes)
    card.eswitch_mode(pf)  # ENODEV without an instance
    return [pf]


def _ports(card: Card, attributes: dict[int, bytes], *, dump: bool) -> Iterator[bytes]:
    wanted = None if dump else struct.unpack("=I", attributes[_PORT_INDEX])[0]
    for pf in _instances(card, attributes, dump=dump):
        ports = [port for port in card.ports(pf) if wanted in {None, port.index}]
        if wanted is not None and not ports:
            raise OSError(errno.ENODEV, "")
        for port in ports:
            yield _port(pf, port)


def _port(pf: str, port: DevlinkPort) -> bytes:
    flavour = {"physical": 0, "pcivf": 4}[port.flavour]
    parts = [_handle(pf), _u32(_PORT_INDEX, port.index), _u16(_PORT_TYPE, _ETHERNET)]
    if port.netdev is not None:
        parts += [_u32(_IFINDEX, port.netdev.ifindex), _string(_NETDEV_NAME, port.netdev.name)]
    parts.append(_u16(_FLAVOUR, flavour))
    if port.vf is None:
        parts.append(_u32(_NUMBER, port.pf))
    else:
        parts += [_u32(_CONTROLLER, port.controller), _u16(_PCI_PF, port.pf), _u16(_PCI_VF, port.vf)]
        parts.append(_u8(_EXTERNAL, port.external))
    if port.hw_addr is not None:
        function = _attribute(_HW_ADDR, bytes.fromhex(port.hw_addr.replace(":", "")))
        if port.migratable is not None:
            function += _attribute(_CAPS, struct.pack("=II", _MIGRATABLE * port.migratable, _MIGRATABLE))
        parts.append(_nest(_FUNCTION, function))
    return _generic(_PORT_NEW, *parts)


def _set_port(card: Card, attributes: dict[int, bytes]) -> None:
    if _PORT_INDEX not in attributes:
        raise OSError(errno.EINVAL, "")
    function = parse(attributes.get(_FUNCTION, b""))
    unknown = set(function) - {_HW_ADDR, _CAPS}
    if unknown:
        raise OSError(errno.EINVAL, "Unknown attribute type")
    migratable = None
    if _CAPS in function:
        bits, selector = struct.unpack("=II", function[_CAPS])
        if bits & ~selector or selector & ~_MIGRATABLE:
            raise OSError(errno.EINVAL, "Attribute failed policy validation")
        migratable = bool(bits & _MIGRATABLE) if selector else None
    hw_addr = function[_HW_ADDR].hex(":") if _HW_ADDR in function else None
    index = struct.unpack("=I", attributes[_PORT_INDEX])[0]
    card.set_port_function(_instance(attributes), index, hw_addr=hw_addr, migratable=migratable)


def _info(card: Card, pf: str) -> bytes:
    parts = [_handle(pf), _string(_DRIVER, card.hardware.host_driver)]
    versions = card.info(pf)
    for kind, number in (("fixed", _FIXED), ("running", _RUNNING), ("stored", _STORED)):
        for name, version in versions[kind].items():
            parts.append(_nest(number, _string(_VERSION_NAME, name), _string(_VERSION_VALUE, version)))
    return _generic(_INFO_GET, *parts)


def parse(data: bytes) -> dict[int, bytes]:
    """Read attributes by number, without their flags; EINVAL when they are malformed."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            raise OSError(errno.EINVAL, "Attribute has an invalid length")
        found[number & 0x3FFF] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def _attribute(number: int, content: bytes) -> bytes:
    return struct.pack("=HH", len(content) + 4, number) + content + bytes(-len(content) % 4)


def _nest(number: int, *parts: bytes) -> bytes:
    return _attribute(number | _NESTED, b"".join(parts))


def _string(number: int, text: str) -> bytes:
    return _attribute(number, text.encode() + b"\0")


def _u8(number: int, value: int) -> bytes:
    return _attribute(number, bytes([value]))


def _u16(number: int, value: int) -> bytes:
    return _attribute(number, struct.pack("=H", value))


def _u32(number: int, value: int) -> bytes:
    return _attribute(number, struct.pack("=I", value))


def _handle(pf: str) -> bytes:
    return _string(_BUS_NAME, "pci") + _string(_DEV_NAME, pf)


def _generic(command: int, *parts: bytes) -> bytes:
    return _GENERIC.pack(command, 1, 0) + b"".join(parts)


def main() -> None:
    """Serve a default card at a path until interrupted: for trying `devlink` by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    with DevlinkServer(Card(), arguments.path), contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
