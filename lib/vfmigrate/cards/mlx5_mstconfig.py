# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware settings of mlx5 cards, read with mstconfig (mstflint) or NVIDIA's mlxconfig, where one is installed.

The kernel does not show these settings. A query takes about a second.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from vfmigrate import deadline
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress
from vfmigrate.text import command

TOOLS = ("mstconfig", "mlxconfig")
_MIGRATION = "VF_MIGRATION_MODE"
#: What the tools print about a parameter that they, or the card's firmware, do not know. mlxconfig/ of mstflint's
#: sources had these over the years: "Unknown Parameter: %s" (3.6, 2014), "Unknown Parameter %s", "The Device doesn't
#: support %s parameter", "Device doesn't support %s configuration" (MFT 4.5, 2016), "Unknown parameter %s of the
#: configuration %s" (4.7, 2017), "Device '%s' does not support configuration named '%s'" (4.36, 2026).
_ABSENT = re.compile(
    rf"unknown parameter|(?:doesn't|does not) support (?:configuration named )?'?{_MIGRATION}", re.IGNORECASE
)
#: kernel_lockdown(7): the mode in force is in brackets
LOCKDOWN = Path("/sys/kernel/security/lockdown")
_LOCKED_DOWN = re.compile(r"\[(integrity|confidentiality)\]")


def parse(output: str, setting: str) -> Optional[int]:
    """Find a setting in the output of `query`, as `MIGRATION_ENABLED(2)` or a plain number; None when it is not there.

    With several columns (default, current, next boot) the last one counts: it is what the card will start with.
    """
    for line in output.splitlines():
        words = line.split()
        if setting in words:
            value = re.fullmatch(r"(?:\w+\()?(\d+)\)?", words[-1])
            return int(value[1]) if value else None
    return None


class FirmwareSettings:
    """Firmware settings of cards.

    `tools` are the programs to try, `timeout` in seconds limits one query, `lockdown` is the kernel's file that shows
    whether it is locked down.
    """

    def __init__(
        self, tools: Sequence[str] = TOOLS, *, timeout: float = 30.0, lockdown: Path = LOCKDOWN
    ) -> None:
        self._tools = tools
        self._timeout = timeout
        self._lockdown = lockdown

    def vf_migration_mode(self, pf: PciAddress) -> Optional[int]:
        """The setting VF_MIGRATION_MODE: 2 is enabled; None without a tool, or when the firmware has no such setting.

        Raises HostError when the tool fails.
        """
        tool = next((found for found in map(shutil.which, self._tools) if found), None)
        if tool is None:
            return None
        words = [tool, "-d", str(pf), "query", _MIGRATION]
        door = Door(f"{tool} for PF {pf}", f"see: {command(*words)}")
        try:
            with deadline.waiting(door, self._timeout) as seconds:
                done = subprocess.run(
                    words,
                    capture_output=True,
                    text=True,
                    timeout=seconds,
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{tool} failed for PF {pf}: {error}") from None
        if done.returncode != 0:
            if _ABSENT.search(done.stdout + done.stderr):
                return None
            self._check_lockdown(Path(tool).name)
            output = (done.stderr or done.stdout).strip().splitlines()
            raise HostError(
                f"{tool} cannot read {_MIGRATION} of PF {pf}: {output[-1] if output else done.returncode}",
                f"see: {command(*words)}",
            )
        return parse(done.stdout, _MIGRATION)

    def _check_lockdown(self, tool: str) -> None:
        """Raise HostError if the kernel is locked down; its text is the same for every card of the host.

        The kernel then denies direct access to the card, and the tool says something like "Failed to open the device",
        "Failed to identify the device" or "Permission denied".
        """
        try:
            found = _LOCKED_DOWN.search(self._lockdown.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError):  # no such feature, or no right to read it
            return
        if found:
            raise HostError(
                f"the kernel is locked down ({found[1]}; Secure Boot), so {tool} cannot read {_MIGRATION} of any card",
                "not needed where VFs have the migratable flag; to read it all the same, load mstflint's signed"
                " module mstflint_access, or boot without Secure Boot",
            )
