# SPDX-License-Identifier: GPL-2.0-or-later
"""udev: whether it has finished with a network device, and which devices are vfmigrate's.

Owns `/run/vfmigrate/udev`, which udev/70-vfmigrate.rules reads: a file for each PF of a pool, and for each VF that such
a PF can have. Devices of no pool have none, so that the rules leave them alone. Files and not a program, so that 127
VFs start no process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vfmigrate.model.pci import PciAddress
from vfmigrate.os_errors import exists, failed

OWNED = Path("/run/vfmigrate/udev")
PF_PROPERTY = "VFMIGRATE_PF"
VF_PROPERTY = "VFMIGRATE_VF"
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


@dataclass(frozen=True)
class OwnedPf:
    """A PF of a pool, the VFs that it has or can have, and whether its representors get stable names."""

    address: PciAddress
    vfs: Sequence[PciAddress]
    stable_names: bool


class Udev:
    """udev of this host: `run` is where it keeps its state, `owned` the directory that our rules read."""

    def __init__(self, run: Path = Path("/run/udev"), owned: Path = OWNED) -> None:
        self._run = run
        self._owned = owned

    def settled(self, ifindex: int) -> bool:
        """Whether udev has given a network device its final name; true where no udev runs.

        As libudev's udev_device_get_is_initialized(): the device is in the database once its rules have run. Raises
        HostError where that cannot be seen.
        """
        what = "see whether udev has named a network device: read"
        control, device = self._run / "control", self._run / f"data/n{ifindex}"
        return not exists(control, f"{what} {control}") or exists(device, f"{what} {device}")

    def publish(self, pfs: Iterable[OwnedPf]) -> list[PciAddress]:
        """Have udev treat exactly these PFs and their VFs as vfmigrate's, from their next event on.

        Returns the devices whose file was written or removed: udev reads it at their next event, so that one is to be
        asked for. Raises HostError when the files cannot be written.
        """
        wanted: dict[str, str] = {}
        for pf in pfs:
            prefix = f"{PREFIX_PROPERTY}={representor_prefix(pf.address)}\n" if pf.stable_names else ""
            wanted[str(pf.address)] = f"{PF_PROPERTY}=1\n{prefix}"
            wanted.update((str(vf), f"{VF_PROPERTY}=1\n") for vf in pf.vfs)
        try:
            self._owned.mkdir(mode=0o755, parents=True, exist_ok=True)
            present = {file.name for file in self._owned.iterdir()}
            unwanted = sorted(present - set(wanted))
            for name in unwanted:
                with suppress(FileNotFoundError):
                    (self._owned / name).unlink()
            changed = [name for name in unwanted if not name.startswith(".")]
            for name, text in wanted.items():
                if name not in present or (self._owned / name).read_text() != text:
                    new = self._owned / f".{name}"
                    new.write_text(text)
                    os.replace(new, self._owned / name)  # noqa: PTH105  (udev sees it whole or not at all)
                    changed.append(name)
        except OSError as error:
            raise failed(
                f"write {self._owned}, from which udev knows the devices of the pools",
                error,
                remedy="see df -h /run",
            ) from None
        return [PciAddress.parse(name) for name in changed]
