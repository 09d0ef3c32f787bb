# SPDX-License-Identifier: GPL-2.0-or-later
"""Who holds a device node open, by this process and one more: /proc shows only those the test puts there."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vfmigrate.errors import HostError
from vfmigrate.host.holders import guest_of, holders


def found(nodes: Sequence[Path], **options: Any) -> dict[Path, int]:
    """What `holders` finds of these nodes."""
    return {Path(node): pid for node, pid in holders(map(str, nodes), **options).items()}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with this process and what is no process in it."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / str(os.getpid())).symlink_to("/proc/self")
    (proc / "meminfo").touch()
    (proc / "999999").mkdir()  # a process that has just ended
    return proc


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "vfio" / "7"
    path.parent.mkdir()
    path.touch()
    return path


def test_a_node_that_is_not_open_has_no_holder(node: Path, proc: Path) -> None:
    assert found([node], proc=proc) == {}


def test_an_open_node_has_this_process_as_holder(node: Path, proc: Path) -> None:
    with node.open():
        assert found([node], proc=proc) == {node: os.getpid()}
    assert found([node], proc=proc) == {}


def test_several_nodes_are_looked_up_at_once(node: Path, proc: Path) -> None:
    other = node.with_name("8")
    other.touch()
    with other.open():
        assert found([node, other], proc=proc) == {other: os.getpid()}


def test_an_absent_node_has_no_holder(node: Path, proc: Path) -> None:
    assert found([node.with_name("9")], proc=proc) == {}


def test_an_open_file_of_the_same_name_is_no_holder(node: Path, proc: Path, tmp_path: Path) -> None:
    with (tmp_path / node.name).open("w"):
        assert found([node], proc=proc) == {}


def test_a_device_that_is_open_by_another_node_has_a_holder(proc: Path, tmp_path: Path) -> None:
    """QEMU's private /dev has nodes of its own, with the same device number."""
    ours, theirs, other = (tmp_path / name / "7" for name in ("ours", "theirs", "other"))
    for node, device in ((ours, "/dev/full"), (theirs, "/dev/full"), (other, "/dev/zero")):
        node.parent.mkdir()
        os.mknod(node, stat.S_IFCHR | 0o600, Path(device).stat().st_rdev)
    with other.open():
        assert found([ours], proc=proc) == {}
    with theirs.open():
        assert found([ours], proc=proc) == {ours: os.getpid()}


def test_a_node_that_was_recreated_while_open_has_no_holder(node: Path, proc: Path) -> None:
    with node.open():
        kept = node.with_name("kept")
        os.link(node, kept)
        node.unlink()
        kept.rename(node)
        assert found([node], proc=proc) == {node: os.getpid()}


def test_an_open_node_has_another_process_as_holder(node: Path, proc: Path) -> None:
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-S", "-c", code, str(node)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        (proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        assert found([node], proc=proc) == {node: process.pid}
        process.stdin.close()
        process.wait(20)
    assert found([node], proc=proc) == {}


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory that everyone may enter, and this process without root's rights."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        yield place
        os.seteuid(0)


def test_a_process_whose_files_cannot_be_read_is_an_error(nobody: Path) -> None:
    """Root passes every mode, so the look is made as nobody."""
    closed = nobody / "1234" / "fd"
    closed.mkdir(parents=True)
    closed.chmod(0)
    node = nobody / "node"
    node.touch()
    os.seteuid(65534)
    with pytest.raises(
        HostError, match=r"1234/fd is closed to this process; run as root with CAP_SYS_PTRACE"
    ):
        found([node], proc=nobody)


_SLOW_FILE_SERVER = """
import errno, stat, sys, time
from mfusepy import FUSE, FuseOSError, Operations
class OneFile(Operations):
    opened = False
    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755}
        if path != "/7":
            raise FuseOSError(errno.ENOENT)
        if OneFile.opened:
            time.sleep(600)
        return {"st_mode": stat.S_IFREG | 0o644}
    def open(self, path, flags):
        OneFile.opened = True
        return 0
    def init(self, path):
        print("ready", flush=True)
FUSE(OneFile(), sys.argv[1], foreground=True, attr_timeout=0, nothreads=False)
"""


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")


@needs_root
def test_a_file_server_that_does_not_answer_is_not_waited_for(node: Path, proc: Path, tmp_path: Path) -> None:
    """Any user can have one: by its name it might be held, and asking for its status would wait for ever."""
    pytest.importorskip("mfusepy")
    mount = tmp_path / "mount"
    mount.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW_FILE_SERVER, str(mount)], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        held = os.open(mount / "7", os.O_RDONLY)
        answers: list[dict[Path, int]] = []
        # a daemon: one that waits for ever must not keep the test run from ending
        look = threading.Thread(target=lambda: answers.append(found([node], proc=proc)), daemon=True)
        look.start()
        look.join(20)
        try:
            assert answers == [{}]
        finally:
            server.kill()
            server.wait()
            subprocess.run(["umount", "--lazy", mount], check=True)
            with contextlib.suppress(OSError):  # its server is gone
                os.close(held)


@needs_root
def test_the_file_system_of_a_node_is_trusted(proc: Path, tmp_path: Path) -> None:
    """QEMU's private /dev is a tmpfs, the tests' directory whatever it is."""
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], check=True)
    try:
        ours, theirs = tmp_path / "7", memory / "7"
        for each in (ours, theirs):
            os.mknod(each, stat.S_IFCHR | 0o600, Path("/dev/full").stat().st_rdev)
        with theirs.open():
            assert found([ours], proc=proc) == {ours: os.getpid()}
    finally:
        subprocess.run(["umount", memory], check=True)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("guest=web,debug-threads=on", "web"),
        ("guest=web,,blue,debug-threads=on", "web,blue"),
        ("guest=web,,,debug-threads=on", "web,"),
        ("guest=,,,,a", ",,a"),
        ("guest=a=b", "a=b"),
        ("web", "web"),
        ("web,,blue,process=x", "web,blue"),
    ],
)
def test_a_guest_has_the_name_that_qemu_was_given(tmp_path: Path, option: str, name: str) -> None:
    """In an option, QEMU reads a doubled comma as one of the value."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(f"/usr/bin/qemu\0-name\0{option}\0-S\0".encode())
    assert guest_of(7, proc=tmp_path) == name
