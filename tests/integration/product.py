# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate on a namespace host, installed as `make install` does it, run without systemd."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from tests.integration.hosts import BRIDGE, Host, wait_for
from tests.testbed.run import run

TREE = Path(__file__).parents[2]
HOOK = "/etc/libvirt/hooks/qemu.d/50-vfmigrate"
SOCKET = "/run/vfmigrate/vfmigrated.sock"
CLAIMS = "/run/vfmigrate/claims"
LOG = "/run/vfmigrate/log"

CONFIGURATION = """\
[pool data]
pf = {pf}
bridge = {bridge}
vlans = 42-43
"""


def stage(destination: Path) -> None:
    """Install the product below an empty directory, for hosts to take it from."""
    run("make", "--silent", "-C", TREE, "install", f"DESTDIR={destination}")


class Product:
    """vfmigrate on one host."""

    def __init__(self, host: Host, pf: str, environment: Mapping[str, str]) -> None:
        self._host = host
        self._pf = pf
        self._environment = environment
        self._daemon: Optional[subprocess.Popen[str]] = None

    def install(self, staged: Path) -> None:
        """Copy what `stage` made to the host; the hook waits for `install_hook`."""
        run("cp", "-a", f"{staged}/.", self._host.path("/"))
        self._hook = self._host.path(HOOK).read_text()
        self.remove_hook()

    def install_hook(self) -> None:
        """Put the hook where libvirt finds it."""
        self._host.write(HOOK, self._hook, 0o755)

    def remove_hook(self) -> None:
        """Take the hook away."""
        self._host.path(HOOK).unlink(missing_ok=True)

    def start(self, extra: str = "") -> None:
        """Configure the pool (with `extra` lines in its section), install the hook and run the daemon.

        Returns when it answers.
        """
        text = CONFIGURATION.format(pf=self._pf, bridge=BRIDGE) + extra
        self._host.write("/etc/vfmigrate/vfmigrate.conf", text)
        self.install_hook()
        self._host.path("/run/vfmigrate").mkdir(exist_ok=True)
        log = self._host.path(LOG)
        self._daemon = self._host.spawn("vfmigrated", env=self._environment, log=log)
        wait_for(f"vfmigrated on {self._host.name}", self._answers)

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"vfmigrated ended with {self._daemon.returncode}: {self.log()}")
        return self._host.path(SOCKET).is_socket()

    def stop(self, signal: str = "TERM") -> None:
        """End the daemon; its claims stay. Nothing when it does not run."""
        if self._daemon is not None:
            # The process that is kept here is nsenter; the daemon is its child.
            children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children").read_text().split()
            run("kill", f"-{signal}", *children)
            self._daemon.wait(timeout=10)
            self._daemon = None

    def reset(self) -> None:
        """End the daemon; take away the hook and what the daemon keeps."""
        self.stop()
        self.remove_hook()
        shutil.rmtree(self._host.path("/run/vfmigrate"), ignore_errors=True)

    def log(self) -> str:
        """What the daemon printed."""
        file = self._host.path(LOG)
        return file.read_text() if file.exists() else ""

    def claims(self) -> dict[str, Any]:
        """The claim files by VF, as they are on the host."""
        return {file.stem: json.loads(file.read_text()) for file in self._host.path(CLAIMS).glob("*.json")}
