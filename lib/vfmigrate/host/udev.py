# SPDX-License-Identifier: GPL-2.0-or-later
"""udev: whether it has finished with a network device, and the names of representors.

Owns `/run/vfmigrate/representors`, which udev/70-vfmigrate.rules reads: a file for each PF whose representors are to
have stable names. A file and not a program, so that naming 127 representors starts no process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress

REPRESENTORS = Path("/run/vfmigrate/representors")
PREFIX_PROPERTY = "VFMIGRATE_REPRESENTOR_PREFIX"

# Leaves 9 of the 15 characters of a name for the port's own, such as pf0vf127.
_MAX_PREFIX = 6
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def representor_prefix(pf: PciAddress) -> str:
    """The prefix of the names of a card's representors: from bus and slot, and a shortened domain other than 0.

    The function is left out, because the name of the port (`pf1vf3`) has the number of the PF.
    """
    if pf.domain == 0:
        return f"r{pf.bus:02x}{pf.slot:02x}"
    number = pf.domain << 13 | pf.bus << 5 | pf.slot
    text = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text[-_MAX_PREFIX:]


class Udev:
    """udev of this host: `run` is where it keeps its state, `representors` the directory our rules read."""

    def __init__(self, run: Path = Path("/run/udev"), representors: Path = REPRESENTORS) -> None:
        self._run = run
        self._representors = representors

    def settled(self, ifindex: int) -> bool:
        """Whether udev has given a network device its final name; true where no udev runs.

        As libudev's udev_device_get_is_initialized(): the device is in the database once its rules have run.
        """
        if not (self._run / "control").exists():
            return True
        return (self._run / f"data/n{ifindex}").exists()

    def name_representors(self, pfs: Iterable[PciAddress]) -> None:
        """Have udev name the representors of exactly these PFs, when they appear the next time."""
        wanted = {str(pf): f"{PREFIX_PROPERTY}={representor_prefix(pf)}\n" for pf in pfs}
        try:
            self._representors.mkdir(mode=0o755, parents=True, exist_ok=True)
            for file in self._representors.iterdir():
                if file.name not in wanted:
                    with suppress(FileNotFoundError):
                        file.unlink()
            for name, text in wanted.items():
                new = self._representors / f".{name}"
                new.write_text(text)
                os.replace(new, self._representors / name)  # noqa: PTH105  (udev sees it whole or not at all)
        except OSError as error:
            raise HostError(f"cannot write the names of representors for udev: {error}") from None
