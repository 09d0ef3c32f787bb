# SPDX-License-Identifier: GPL-2.0-or-later
"""A host whose first process is systemd: the cached host root in namespaces, with libvirtd, Open vSwitch and sshd.

It has no card and shares the machine's kernel. It is for tests of services: scriptlets of packages, socket activation,
reloads.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.hosts import wait_for
from tests.testbed.run import CommandError, brief

INIT = Path(__file__).with_name("systemd_init.sh")
BOOT_S = 60.0


class SystemdHost:
    """One such host, known by its systemd's process ID."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def path(self, inside: str) -> Path:
        """A path of the host as seen from outside."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def enter(self) -> list[str]:
        """The beginning of a command line that runs on the host."""
        spaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root", "--wd")
        return ["nsenter", f"--target={self.pid}", *spaces, "--"]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the host; raises CommandError on a status other than 0 if `check`."""
        surroundings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        done = subprocess.run(
            [*self.enter(), *words],
            env=surroundings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandError(brief(words), done.returncode, done.stdout + done.stderr)
        return done

    def active(self, *units: str) -> bool:
        """Whether all these units are active."""
        return self.run("systemctl", "--quiet", "is-active", *units, check=False).returncode == 0

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def cgroups() -> Path:
    """The directory of this process's control group (version 2)."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    mounted = next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return mounted / own[len("0::") :].lstrip("/")


def removed(group: Path) -> bool:
    """Remove a control group with those below it; False while a process in one has not ended yet."""
    for folder in (*sorted(group.rglob("*/"), reverse=True), group):
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not group.exists()


@contextmanager
def systemd_host(lower: Path, place: Path) -> Iterator[SystemdHost]:
    """A host over the root `lower`, up; `place` is an empty directory for its mounts. It ends with this context.

    It also ends with this process, however that ends.
    """
    group = cgroups() / f"vfmigrate-test-{os.getpid()}"
    group.mkdir()
    join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    spaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child=KILL")
    keeper = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "sh", "-c", join, group, "unshare", *spaces, INIT, lower, place],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        assert keeper.stdout is not None
        host = SystemdHost(int(keeper.stdout.readline()))
        units = ("libvirtd.service", "openvswitch-switch.service", "ssh.service")
        wait_for("the host to boot", lambda: host.active("multi-user.target", *units), BOOT_S)
        yield host
    finally:
        with keeper:
            keeper.kill()
        wait_for("the host's processes to end", lambda: not members(group))
        wait_for("the host's control groups to be gone", lambda: removed(group))


def members(group: Path) -> str:
    """The processes in a control group and those below it."""
    return "".join(file.read_text() for file in [group / "cgroup.procs", *group.rglob("cgroup.procs")])
