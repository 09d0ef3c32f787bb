# SPDX-License-Identifier: GPL-2.0-or-later
"""Hardware offload of Open vSwitch: enabled in its database, and in effect only after a restart of ovs-vswitchd.

The database does not show whether ovs-vswitchd was restarted since. So a file below /run has the process that ran when
the setting was written; as long as that process runs, a restart is pending.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.os_errors import ABSENT, failed
from vfmigrate.ovs.bridge import OFFLOAD
from vfmigrate.ovs.openvswitch import OpenVswitch

ON, OFF, RESTART = "on", "off", "restart"

NOTE = Path("/run/vfmigrate/openvswitch-restart")
PID_FILE = Path("/run/openvswitch/ovs-vswitchd.pid")
# Debian's and Red Hat's packages call it the same.
UNIT = "ovs-vswitchd.service"


class HardwareOffload:
    """The state of hardware offload, and its restart. `restart_unit` restarts a systemd unit and waits for it."""

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
        """Write settings of the switch, and record that a restart is pending when one of them is hw-offload."""
        daemon = self._daemon()
        ovs.configure(settings)
        if "hw-offload" in settings and daemon is not None:
            try:
                self._note.write_text(daemon, encoding="utf-8")
            except OSError as error:
                raise failed(
                    f"record in {self._note} that Open vSwitch needs a restart",
                    error,
                    remedy=f"systemctl restart {UNIT}",
                ) from None

    def enabled(self, ovs: OpenVswitch) -> bool:
        """Whether it is enabled in the database. Raises Unreachable."""
        return ovs.settings().get("hw-offload") == OFFLOAD["hw-offload"]

    def state(self, enabled: bool) -> str:
        """`on`, `off`, or `restart` while it is enabled and not yet in effect.

        Raises HostError where that cannot be seen.
        """
        if not enabled:
            return OFF
        return RESTART if self.pending() else ON

    def pending(self) -> bool:
        """Whether ovs-vswitchd was not restarted since hardware offload was enabled.

        Raises HostError where that cannot be seen.
        """
        try:
            noted = self._note.read_text(encoding="utf-8")
        except ABSENT:
            return False
        except OSError as error:
            raise failed(f"see whether Open vSwitch needs a restart: read {self._note}", error) from None
        return noted == self._daemon()

    def running(self) -> bool:
        """Whether ovs-vswitchd runs. Raises HostError where that cannot be seen."""
        return self._daemon() is not None

    def restart(self) -> None:
        """Restart ovs-vswitchd. Raises HostError or Unreachable."""
        self._restart_unit(UNIT)
        if self.pending():
            raise HostError(
                "ovs-vswitchd is still the same process after its restart", f"see systemctl status {UNIT}"
            )

    def _daemon(self) -> Optional[str]:
        """What identifies the running ovs-vswitchd: its process ID and its start time; None while none runs.

        Raises HostError where that cannot be seen.
        """
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            # proc_pid_stat(5): the name in parentheses may hold anything; the 22nd field is the start time.
            started = (self._proc / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        except (*ABSENT, ProcessLookupError, ValueError, IndexError):
            return None
        except OSError as error:
            raise failed(f"see whether ovs-vswitchd runs: read {error.filename}", error) from None
        return f"{pid} {started}"
