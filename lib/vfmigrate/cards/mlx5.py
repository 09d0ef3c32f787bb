# SPDX-License-Identifier: GPL-2.0-or-later
"""NVIDIA (Mellanox) cards of the mlx5 driver: ConnectX-6 Dx and newer, BlueField-2 and newer.

`mlx5_vfio_pci` reads the `migratable` flag of the port function when it binds (drivers/vfio/pci/mlx5 and
Documentation/networking/devlink/devlink-port.rst), so the flag is set while the VF has no driver. The flag is offered
only by firmware that was configured with VF_MIGRATION_MODE=2.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Callable, Optional

from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.vendor import CardState, Vendor, version
from vfmigrate.errors import HostError
from vfmigrate.model.mac import NO_MAC
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.findings import ERROR, WARNING, Finding
from vfmigrate.text import command, quoted

#: The oldest firmware of each family that migrates VFs, by the family's number, with which its versions begin. The
#: other two numbers name the release, and all families share them. Red Hat's documents name 28.36.1010 for ConnectX-7,
#: NVIDIA's name ConnectX-6 Dx with the release of MLNX_EN 23.07. No minimum is known for a family that is not here: the
#: flag decides.
FIRMWARE_MIN = {
    22: (22, 38, 1002),  # ConnectX-6 Dx
    24: (24, 38, 1002),  # BlueField-2
    28: (28, 36, 1010),  # ConnectX-7
    32: (32, 36, 1010),  # BlueField-3
    40: (40, 36, 1010),  # ConnectX-8
}
#: the value of VF_MIGRATION_MODE that lets VFs migrate (0: the firmware's default, 1: off)
MIGRATION_ENABLED = 2


class Mlx5(Vendor):
    """These cards."""

    pci_vendor = 0x15B3

    needs_flag = True
    # Red Hat's documents: four VFs of one PF at the same time
    max_migrating = 4
    # Documentation/networking/devlink/devlink-port.rst; the VF's driver then makes a MAC up
    free_mac = NO_MAC

    load_driver = "modprobe mlx5_core; see dmesg"
    install_variant = (
        "install a kernel that has mlx5_vfio_pci (Linux 6.7 or newer, or a backport of it): "
        "see alias vfio_pci in modules.alias"
    )
    # drivers/net/ethernet/mellanox/mlx5/core/eswitch.c: where the host does not manage the eswitch,
    # mlx5_eswitch_check() answers EOPNOTSUPP (EPERM in older kernels) without a text
    manage_eswitch = (
        "if this is a BlueField in DPU mode, its Arm side manages the eswitch and the VFs' representors: set it to NIC"
        " mode (INTERNAL_CPU_OFFLOAD_ENGINE=1 with mstconfig, then a power cycle); otherwise see dmesg"
    )
    # drivers/net/ethernet/mellanox/mlx5/core/eswitch_offloads.c
    kernel_remedies = MappingProxyType(
        {
            "E-Switch is busy": "offloaded flows use it: remove the PF's ports from their Open vSwitch bridges"
            " and delete its tc filters, then try again",
            "Device doesn't support migration": f"set VF_MIGRATION_MODE={MIGRATION_ENABLED} with mstconfig, reset the"
            " card, and see that its firmware is new enough: vfmigrate provision --dry-run",
            "Device doesn't support VHCA management": "update the firmware of the card: mstflint",
            "Failed setting HCA migratable cap": "unbind the VF from its driver first:"
            " the flag can change only while the VF is unbound",
        }
    )

    def __init__(
        self,
        tool: Optional[FirmwareSettings] = None,
        read_mode: Optional[Callable[[PciAddress], Optional[int]]] = None,
    ) -> None:
        """`tool` reads firmware settings; `read_mode` reads VF_MIGRATION_MODE in its place where it has to."""
        self._tool = tool if tool is not None else FirmwareSettings()
        self._read_mode = read_mode if read_mode is not None else self.migration_setting

    def migration_setting(self, pf: PciAddress) -> Optional[int]:
        """VF_MIGRATION_MODE of a PF. Raises HostError."""
        return self._tool.vf_migration_mode(pf)

    def reading_setting_by(self, read: Callable[[PciAddress], Optional[int]]) -> Mlx5:
        """The same vendor, for whose findings VF_MIGRATION_MODE is read by `read`."""
        return Mlx5(self._tool, read)

    def enable_sriov(self, pf: str, vfs: int) -> str:
        """Remedy: make the card offer `vfs` VFs on a PF."""
        return f"run: mstconfig -d {quoted(pf)} set SRIOV_EN=1 NUM_OF_VFS={quoted(vfs)}; then {_reset(pf)}"

    def enable_migration(self, pf: str) -> str:
        """Remedy: make the card offer migration of a PF's VFs."""
        return f"run: mstconfig -d {quoted(pf)} set VF_MIGRATION_MODE={MIGRATION_ENABLED}; then {_reset(pf)}"

    def enable_ethernet(self, pf: PciAddress) -> str:
        """Remedy: make the port of a PF speak Ethernet; the PCI function has the number of the port, from 0."""
        setting = f"LINK_TYPE_P{pf.function + 1}=2"
        return f"run: {command('mstconfig', '-d', pf, 'set', setting)}; then {_reset(str(pf))}"

    def update_firmware(self, pf: str) -> str:
        """Remedy: give the card newer firmware."""
        return f"update it: mstflint -d {quoted(pf)} -i IMAGE burn; then {_reset(pf)}"

    def firmware(self, card: CardState) -> Iterator[Finding]:
        """What is wrong with the firmware of a card: too old, to change at the next reset, or unknown."""
        see = f"see devlink dev info {quoted(f'pci/{card.pf}')}"
        if card.firmware is None:
            yield Finding(WARNING, f"PF {card.pf} does not report its firmware", see)
        else:
            yield from self.older(card, _oldest(version(card.firmware)[0], card))
            yield from self.pending(card)
        if card.psid is None:
            text = f"PF {card.pf} does not report its PSID, so hosts with other cards cannot be distinguished"
            yield Finding(WARNING, text, see)

    def settings(self, pf: PciAddress) -> Iterator[Finding]:
        """Whether VF_MIGRATION_MODE lets VFs migrate; nothing where no tool is installed to read it."""
        try:
            mode = self._read_mode(pf)
        except HostError as error:
            yield Finding(WARNING, error.problem, error.remedy)
            return
        if mode not in (None, MIGRATION_ENABLED):
            text = f"the firmware of PF {pf} has VF_MIGRATION_MODE={mode}, so its VFs cannot migrate"
            yield Finding(ERROR, text, self.enable_migration(str(pf)))


def _oldest(family: int, card: CardState) -> Optional[tuple[int, ...]]:
    """The oldest firmware of a family that migrates VFs, or that a pool asks for of the family that it begins with.

    A card whose VFs answer that they can migrate needs no minimum of ours.
    """
    if card.firmware_min is not None and card.firmware_min[0] == family:
        return card.firmware_min
    return None if card.can_migrate else FIRMWARE_MIN.get(family)


def _reset(pf: str) -> str:
    return f"mstfwreset -d {quoted(pf)} reset"


VENDOR = Mlx5()
