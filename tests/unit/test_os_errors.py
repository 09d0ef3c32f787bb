# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of the operating system at the doors: each becomes a HostError, and what is denied is never told as absent."""

from __future__ import annotations

import ast
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.os_errors import DENIED_REMEDY, exists, failed

LIBRARY = Path(__file__).parents[2] / "lib" / "vfmigrate"

#: reach the kernel by a path; as methods or functions of `os`, the builtin open() included
RAW = frozenset(
    (
        *("open", "listdir", "scandir", "stat", "lstat", "readlink", "read_text", "read_bytes", "iterdir"),
        *("unlink", "mkdir", "write_text", "write_bytes", "rename", "chmod", "rmdir", "touch", "access"),
    )
)
#: answer "no" to what is denied, or raise it raw, by the version of Python
GUESSES = frozenset(
    ("exists", "is_dir", "is_file", "is_symlink", "isdir", "isfile", "lexists", "islink", "glob", "rglob")
)

#: where it is a caller that turns an OSError into a HostError
PASSED_ON = {
    "host/holders.py:_held_by": "itself, around its loop",
    "host/holders.py:_mount_id": "_held_by",
    "host/local_files.py:_listed": "_names",
    "host/local_files.py:_look": "_file",
    "host/sysfs_files.py:_write": "write_text",
    "host/vfio.py:_open": "ask",
}
#: where an OSError may go unmentioned, and why that tells no "no"
SILENT = {
    "claims/claim_files.py:load": "what an interrupted write left stays; the next write replaces it",
    "claims/claim_files.py:set_aside": "a file that is no claim stays, and is reported again at the next start",
    "claims/claim_files.py:write": "the error of the write itself is reported",
    "cards/mlx5_mstconfig.py:_check_lockdown": "an error of the tool itself is reported then",
    "cli/keyboard.py:_terminal": "there are no keys to read then",
    "daemon/config_reload.py:fingerprint": "its number is in the fingerprint, and reading the files reports it",
    "daemon/pci_reader.py:is_privileged": "asks the process that has the right",
    "daemon/watchdog.py:beat": "stacks for a developer, beside the entry in the log",
    "daemon/watchdog.py:notify": "systemd, which does not hear us, reports that itself",
    "host/holders.py:_held_by": "a file that was closed meanwhile; PermissionError is reported",
    "host/holders.py:_mounts": "a process that has ended; without the mounts all files are looked at",
    "host/holders.py:_type_of": "a node that has gone, so that nobody can have it open",
    "host/holders.py:guest_of": "messages then show the number of the process",
    "host/local_files.py:_file": "exists=None: unknown",
    "host/local_files.py:_mounts": "the file system of a file is unknown then",
    "host/local_files.py:_names": "None: unknown",
    "host/vfio.py:_data_size": "None: unknown",
    "journal.py:_connect": "entries go to standard error then",
    "journal.py:_print": "no file of the kernel's: it cannot block",
    "journal.py:_send": "entries go to standard error then",
    "preflight/probe.py:reach": "the reason is in the outcome",
    "preflight/probe.py:resolve": "the name is reported as not resolved",
    "rpc/server.py:_admit": "the client went away",
    "rpc/server.py:_serve": "the client went away, or another daemon took it",
    "rpc/server.py:_converse": "the client went away",
    "virt/network_metadata.py:uris": "libvirt's own error is raised",
}


def _names(handler: Optional[ast.expr]) -> set[str]:
    nodes = ast.walk(handler) if handler is not None else iter(())
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in nodes
        if isinstance(node, (ast.Name, ast.Attribute))
    }


def _walk(node: ast.AST, function: str, guarded: bool) -> Iterator[tuple[ast.AST, str, bool]]:
    for child in ast.iter_child_nodes(node):
        inside, held = function, guarded
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside, held = child.name, False
        elif isinstance(node, ast.Try) and child in node.body:
            caught = set().union(*(_names(handler.type) for handler in node.handlers))
            held = held or "OSError" in caught
        elif isinstance(node, ast.With) and child in node.body:
            entered = " ".join(ast.unparse(item) for item in node.items)
            held = held or "suppress(OSError" in entered
        yield child, inside, held
        yield from _walk(child, inside, held)


def _sites(tree: ast.AST, file: str) -> Iterator[tuple[str, str]]:
    """What is wrong, and where ("FILE:FUNCTION"): "guess", "raw" or "silent"."""
    for node, function, guarded in _walk(tree, "<module>", False):
        place = f"{file}:{function}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            owner, _, method = name.rpartition(".")
            # sysfs_files and Sysfs have such names, and raise HostError
            if owner and not owner.endswith(("sysfs", "self")) and method in GUESSES:
                yield "guess", place
            elif (owner or name == "open") and owner != "ovs.stream.Stream" and method in RAW and not guarded:
                yield "raw", place
            elif method == "suppress" and "OSError" in ast.unparse(node):
                yield "silent", place
        elif isinstance(node, ast.ExceptHandler) and "OSError" in _names(node.type):
            if not any(isinstance(each, ast.Raise) for each in ast.walk(node)):
                yield "silent", place


@functools.cache
def _all() -> frozenset[tuple[str, str]]:
    files = LIBRARY.rglob("*.py")
    return frozenset(
        site for file in files for site in _sites(ast.parse(file.read_text()), str(file.relative_to(LIBRARY)))
    )


def _found(kind: str) -> set[str]:
    return {place for found, place in _all() if found == kind}


def test_no_door_guesses_whether_a_path_exists() -> None:
    # isdir: where the unit makes the first place inaccessible, the second is read, and reports it
    assert _found("guess") == {"host/sysfs.py:__init__"}


def test_each_door_turns_an_error_of_the_system_into_one_for_the_administrator() -> None:
    assert _found("raw") == set(PASSED_ON)


def test_an_error_of_the_system_is_silent_only_where_that_says_no_untruth() -> None:
    assert _found("silent") == set(SILENT)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("def f():\n    return path.exists()", "guess"),
        ("def f():\n    return os.path.isfile(path)", "guess"),
        ("def f():\n    return open(path).read()", "raw"),
        ("def f():\n    try:\n        pass\n    except OSError:\n        path.stat()", "raw"),
        ("def f():\n    try:\n        path.stat()\n    except OSError:\n        return None", "silent"),
        ("def f():\n    with suppress(OSError):\n        path.stat()", "silent"),
    ],
)
def test_planted_mistakes_are_found(code: str, kind: str) -> None:
    assert (kind, "x.py:f") in set(_sites(ast.parse(code), "x.py"))


def test_a_file_that_is_there_exists_and_one_that_is_not_does_not(tmp_path: Path) -> None:
    assert exists(tmp_path)
    assert not exists(tmp_path / "no")
    (tmp_path / "file").touch()
    assert not exists(tmp_path / "file" / "no")


def test_the_remedy_for_a_missing_right_names_the_policy() -> None:
    error = OSError(errno.EACCES, os.strerror(errno.EACCES))
    assert (
        str(failed("read x", error, remedy="another")) == f"cannot read x: Permission denied; {DENIED_REMEDY}"
    )
    assert (
        str(failed("read x", OSError(errno.EIO, ""), remedy="see y"))
        == "cannot read x: Input/output error; see y"
    )
