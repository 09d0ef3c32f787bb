# SPDX-License-Identifier: GPL-2.0-or-later
"""Hardware offload of Open vSwitch: switched on in its database, and at work only after its daemon was restarted.

The database does not tell whether the daemon has been restarted since. So it is noted, below /run, which daemon was
running when the setting was written; as long as that one runs, a restart is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.ovs.openvswitch import OpenVswitch

NOTE = Path("/run/vfmigrate/openvswitch-restart")
PID_FILE = Path("/run/openvswitch/ovs-vswitchd.pid")
# Debian's and Red Hat's packages call it the same.
UNIT = "ovs-vswitchd.service"


class OffloadRestart:
    """Whether the switch daemon must be restarted, and how. `restart_unit` restarts a systemd unit and waits for it."""

    unit = UNIT

    def __init__(
        self,
        restart_unit: Callable[[str], None],
        *,
        note: Path = NOTE,
        pid_file: Path = PID_FILE,
        proc: Path = Path("/proc"),
    ) -> None:
        self._restart_unit = restart_unit
        self._note = note
        self._pid_file = pid_file
        self._proc = proc

    def configure(self, ovs: OpenVswitch, settings: Mapping[str, str]) -> None:
        """Write settings of the switch, and note that a restart is due when one of them is hw-offload."""
        daemon = self._daemon()
        ovs.configure(settings)
        if "hw-offload" in settings and daemon is not None:
            try:
                self._note.write_text(daemon, encoding="utf-8")
            except OSError as error:
                raise HostError(
                    f"cannot note that Open vSwitch needs a restart: {self._note}: {error.strerror}",
                    f"systemctl restart {UNIT}",
                ) from None

    def pending(self) -> bool:
        """Whether the daemon that ran when hardware offload was switched on still does."""
        try:
            noted = self._note.read_text(encoding="utf-8")
        except OSError:
            return False
        return noted == self._daemon()

    def running(self) -> bool:
        """Whether the switch daemon runs."""
        return self._daemon() is not None

    def restart(self) -> None:
        """Restart the daemon. Raises HostError or Unreachable."""
        self._restart_unit(UNIT)
        if self.pending():
            raise HostError("Open vSwitch still runs as before its restart", f"see systemctl status {UNIT}")

    def _daemon(self) -> Optional[str]:
        """What tells one run of the daemon from every other: its process ID and when it started."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            # proc_pid_stat(5): the name in parentheses may hold anything; the 22nd field is the start time.
            started = (self._proc / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        except (OSError, ValueError, IndexError):
            return None
        return f"{pid} {started}"
