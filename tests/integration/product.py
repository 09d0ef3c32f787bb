# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate on a namespace host, installed by `make install`, run without systemd."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from tests.integration.hosts import BRIDGE, Host, wait_for
from tests.integration.namespaces import signal_child
from tests.testbed.run import run
from vfmigrate.locks import CHECKED_BY

TREE = Path(__file__).parents[2]
HOOK = "/etc/libvirt/hooks/qemu.d/50-vfmigrate"
SOCKET = "/run/vfmigrate/vfmigrated.sock"
CLAIMS = "/run/vfmigrate/claims"
LOG = "/run/vfmigrate/log"
START_PATIENCE_S = 30.0

CONFIGURATION = """\
[daemon]
claim_timeout = {claim_timeout}
reconcile_interval = {reconcile_interval}
{daemon}
[pool {pool}]
pf = {pf}
bridge = {bridge}
vlans = 42-43
{more}
{libvirt}"""


def stage(destination: Path) -> None:
    """Install vfmigrate below an empty directory, from which hosts copy it."""
    run("make", "--silent", "-C", TREE, "install", f"DESTDIR={destination}")


class Product:
    """vfmigrate on one host."""

    def __init__(self, host: Host, pf: str, environment: Mapping[str, str]) -> None:
        self._host = host
        self._pf = pf
        #: how the daemon is started, from its next start on
        self.program: tuple[str, ...] = ("vfmigrated",)
        #: of the daemon, from its next start on
        self.environment = dict(environment)
        self._daemon: Optional[subprocess.Popen[str]] = None

    def install(self, staged: Path) -> None:
        """Copy what `stage` made to the host; the hook waits for `install_hook`."""
        run("cp", "-a", f"{staged}/.", self._host.path("/"))
        self._hook = self._host.path(HOOK).read_text()
        self.remove_hook()

    def install_hook(self) -> None:
        """Install the hook."""
        self._host.write(HOOK, self._hook, 0o755)

    def remove_hook(self) -> None:
        """Remove the hook."""
        self._host.path(HOOK).unlink(missing_ok=True)

    def start(self, *, pf: str = "", claim_timeout: int = 120, reconcile_interval: int = 3600) -> None:
        """Configure a pool of the host's PF, or of another `pf`, install the hook and run the daemon.

        Times are in seconds. By default nothing is reconciled after the start, so that hooks and events must clean up
        themselves. Returns when the daemon answers.
        """
        self.launch(pf=pf, claim_timeout=claim_timeout, reconcile_interval=reconcile_interval)
        self.wait_until_answering()

    def launch(
        self,
        *,
        pf: str = "",
        claim_timeout: int = 120,
        reconcile_interval: int = 3600,
        pool: str = "data",
        more: str = "",
        daemon: str = "",
    ) -> None:
        """Do what `start` does without waiting for the daemon.

        The pool may have another name; `more` are further lines of its section, `daemon` of the daemon's.
        """
        text = CONFIGURATION.format(
            pf=pf or self._pf,
            bridge=BRIDGE,
            claim_timeout=claim_timeout,
            reconcile_interval=reconcile_interval,
            pool=pool,
            more=more,
            daemon=daemon,
            libvirt=self._host.libvirt.configuration,
        )
        self._host.write("/etc/vfmigrate/vfmigrate.conf", text)
        self.install_hook()
        self._host.path("/run/vfmigrate").mkdir(exist_ok=True)
        self._run()

    def reload(self) -> None:
        """Have the daemon take over its configuration, as systemctl reload does; returns at once."""
        assert self._daemon is not None
        self._host.run("vfmigrated", "--check")
        signal_child(self._daemon, "HUP")

    def restart(self) -> None:
        """Start the daemon again with the same configuration and hook; returns when it answers."""
        self._run()
        self.wait_until_answering()

    def _run(self) -> None:
        log = self._host.path(LOG)
        environment = {**self.environment, CHECKED_BY: "1"}
        self._daemon = self._host.spawn(*self.program, env=environment, log=log)

    def wait_until_answering(self) -> None:
        """Wait until the daemon takes requests."""
        wait_for(f"vfmigrated on {self._host.name}", self._answers, START_PATIENCE_S)

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"vfmigrated ended with {self._daemon.returncode}: {self.log()}")
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(os.fspath(self._host.path(SOCKET))) == 0

    def stop(self, signal_name: str = "TERM") -> None:
        """End the daemon if it runs; its claims stay."""
        if self._daemon is not None:
            signal_child(self._daemon, signal_name)
            self._daemon.wait(timeout=10)
            self._daemon = None

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Stop the daemon by SIGSTOP during a `with` block."""
        assert self._daemon is not None
        signal_child(self._daemon, "STOP")
        try:
            yield
        finally:
            signal_child(self._daemon, "CONT")
            # nsenter stops itself when its child is stopped
            self._daemon.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether the daemon runs."""
        return self._daemon is not None and self._daemon.poll() is None

    def has_died(self) -> bool:
        """Whether the daemon that was started last has ended by itself."""
        return self._daemon is not None and self._daemon.poll() is not None

    def bury(self) -> None:
        """Take note of a daemon that has ended by itself."""
        assert self._daemon is not None
        self._daemon.wait(timeout=10)
        self._daemon = None

    def reset(self) -> None:
        """End the daemon; remove the hook and the daemon's files."""
        self.stop()
        self.remove_hook()
        shutil.rmtree(self._host.path("/run/vfmigrate"), ignore_errors=True)

    def log(self) -> str:
        """What the daemon printed."""
        file = self._host.path(LOG)
        return file.read_text() if file.exists() else ""

    def age_claims(self, seconds: float) -> None:
        """Make the claims on disk older; the daemon must not run."""
        for file in self._host.path(CLAIMS).glob("*.json"):
            claim = json.loads(file.read_text())
            claim["since"] -= seconds
            if claim["expires"] is not None:
                claim["expires"] -= seconds
            file.write_text(json.dumps(claim))

    def claims(self) -> dict[str, Any]:
        """The claim files by VF, as they are on the host."""
        claims = {}
        for file in self._host.path(CLAIMS).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # dropped since the directory was read
                claims[file.stem] = json.loads(file.read_text())
        return claims
