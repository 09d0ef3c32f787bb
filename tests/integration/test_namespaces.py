# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces end with their owner, however it ends, and leave nothing on the machine behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import namespaces
from tests.integration.hosts import wait_for
from tests.testbed import images

pytestmark = pytest.mark.hosts

OWNER = """
import sys
from pathlib import Path
from tests.integration import namespaces
namespace = namespaces.host("lost", Path(sys.argv[1]), Path(sys.argv[2]))
namespace.run("sh", "-c", "sleep 600 >/dev/null 2>&1 &")
print(namespace.pid, flush=True)
sys.stdin.read()
"""


def in_pid_namespace(pid: int) -> set[int]:
    """The machine's processes that are in the pid namespace of `pid`."""
    wanted = Path(f"/proc/{pid}/ns/pid").readlink()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/pid").readlink() == wanted:
                    found.add(int(entry.name))
            except OSError:  # it ended
                continue
    return found


def test_closing_a_namespace_ends_its_processes_and_mounts(tmp_path: Path) -> None:
    with namespaces.host("brief", images.host_root(), tmp_path) as host:
        assert host.run("hostname").stdout == "brief\n"
        sleeper = host.spawn("sleep", "600")
        host.run("touch", "/etc/touched")
    sleeper.communicate(timeout=10)
    assert not (images.host_root() / "etc/touched").exists()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_namespace_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, images.host_root(), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with owner:
        assert owner.stdout is not None
        processes = in_pid_namespace(int(owner.stdout.readline()))
        assert len(processes) >= 2
        owner.kill()
    wait_for(
        "the processes in the namespace to end",
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes),
    )


def test_network_namespaces_are_separate() -> None:
    with namespaces.network() as one, namespaces.network() as other:
        one.run("ip", "link", "add", "only-here", "type", "veth", "peer", "name", "peer")
        assert "only-here" in one.run("ip", "link").stdout
        assert "only-here" not in other.run("ip", "link").stdout
