# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware settings of mlx5 cards, read with mstconfig (mstflint) or NVIDIA's mlxconfig, where one is installed.

The kernel does not show these settings. A query takes about a second.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Optional

from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress

TOOLS = ("mstconfig", "mlxconfig")
_MIGRATION = "VF_MIGRATION_MODE"


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
    """Firmware settings of cards; `tools` are the programs to try, `timeout` in seconds limits one query."""

    def __init__(self, tools: Sequence[str] = TOOLS, *, timeout: float = 30.0) -> None:
        self._tools = tools
        self._timeout = timeout

    def vf_migration_mode(self, pf: PciAddress) -> Optional[int]:
        """The setting VF_MIGRATION_MODE: 2 is enabled; None without a tool, or when the firmware has no such setting.

        Raises HostError when the tool fails.
        """
        tool = next((found for found in map(shutil.which, self._tools) if found), None)
        if tool is None:
            return None
        command = [tool, "-d", str(pf), "query", _MIGRATION]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=self._timeout,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{tool} failed for PF {pf}: {error}") from None
        if done.returncode != 0:
            if "Unknown Parameter" in done.stdout + done.stderr:
                return None
            output = (done.stderr or done.stdout).strip().splitlines()
            raise HostError(
                f"{tool} cannot read {_MIGRATION} of PF {pf}: {output[-1] if output else done.returncode}",
                f"see: {' '.join(command)}",
            )
        return parse(done.stdout, _MIGRATION)
