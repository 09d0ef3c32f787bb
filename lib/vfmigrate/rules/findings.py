# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands against a PF serving its pool: firmware, kernel, IOMMU, and what the configuration asks of it.

Pure: facts in, findings out. An error means that guests could not migrate, or not even start, and stops the pool
before anything is changed; a warning is worth an administrator's time and stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from vfmigrate.config.configuration import UPLINK_OF_PF, Pool
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER

ERROR = "error"
WARNING = "warning"

#: VF_MIGRATION_MODE that lets VFs migrate (0: the firmware's default, 1: off)
MIGRATION_ENABLED = 2


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, what, and what to run or do."""

    severity: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class PfFacts:
    """What was looked up about one PF. None is what nobody could tell."""

    pf: PciAddress
    present: bool = True
    sriov: bool = True
    driver: Optional[str] = None
    devlink: bool = True
    psid: Optional[str] = None
    firmware: Optional[str] = None
    stored_firmware: Optional[str] = None
    vf_migration_mode: Optional[int] = None
    iommu: bool = True
    totalvfs: int = 0
    numvfs: int = 0
    #: the VFIO driver for its VFs; None when it cannot be told yet
    vfio_driver: Optional[str] = None
    #: VFs that share their IOMMU group, with the devices they share it with
    shared_groups: Mapping[PciAddress, Sequence[PciAddress]] = field(default_factory=dict)
    #: VFs whose firmware does not know the `migratable` flag, though the eswitch is in switchdev mode
    without_flag: Sequence[PciAddress] = ()


def of_pf(pool: Pool, facts: PfFacts) -> list[Finding]:
    """All that stands against one PF, the worst first."""
    if not facts.present:
        return [
            Finding(
                ERROR, f"{_key(pool, 'pf')}: there is no PCI device {facts.pf} on this host", "see lspci -D"
            )
        ]
    if not facts.sriov:
        text = f"{_key(pool, 'pf')}: PCI device {facts.pf} is not an SR-IOV physical function"
        remedy = f"name a PF, or switch SR-IOV on: mstconfig -d {facts.pf} set SRIOV_EN=1 NUM_OF_VFS=16"
        return [Finding(ERROR, text, remedy)]
    if facts.driver is None or not facts.devlink:
        state = f"its driver {facts.driver} has no devlink" if facts.driver else "it is bound to no driver"
        return [
            Finding(ERROR, f"PF {facts.pf} cannot be configured: {state}", "modprobe mlx5_core; see dmesg")
        ]
    found = [*_firmware(pool, facts), *_kernel(facts), *_counts(pool, facts)]
    return sorted(found, key=lambda finding: finding.severity != ERROR)


def of_bridge(pool: Pool, pools: Sequence[Pool]) -> list[Finding]:
    """What stands against a pool's bridge: two uplinks that are no bond would make a loop of it."""
    uplinks: set[str] = set()
    for other in pools:
        if other.bridge == pool.bridge:
            named = [other.uplink] if other.uplink != UPLINK_OF_PF else [str(pf) for pf in other.pfs]
            uplinks.update(name for name in named if name != "none")
    if len(uplinks) < 2:
        return []
    text = (
        f"{_key(pool, 'uplink')}: bridge {pool.bridge} would get {len(uplinks)} uplinks, {', '.join(sorted(uplinks))}, "
        "which makes a loop"
    )
    return [Finding(ERROR, text, "set uplink to the bond of these ports, or to none and plug it yourself")]


def version(text: str) -> tuple[int, ...]:
    """A firmware version as numbers to compare; what is not a number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def _key(pool: Pool, key: str) -> str:
    """Where the configuration says it."""
    return f"{pool.origin}: [pool {pool.name}] {key}" if pool.origin else f"[pool {pool.name}] {key}"


def _firmware(pool: Pool, facts: PfFacts) -> Iterator[Finding]:
    pf, runs = facts.pf, facts.firmware
    oldest = ".".join(map(str, pool.firmware_min))
    if runs is None:
        yield Finding(WARNING, f"PF {pf} does not tell its firmware", f"see devlink dev info pci/{pf}")
    elif version(runs) < pool.firmware_min:
        remedy = f"update it: mstflint -d {pf} -i IMAGE burn; then mstfwreset -d {pf} reset"
        yield Finding(ERROR, f"PF {pf} runs firmware {runs}, migration needs {oldest} or newer", remedy)
    if runs is not None and facts.stored_firmware not in (None, runs):
        text = f"PF {pf} runs firmware {runs} and will run {facts.stored_firmware} after its next reset"
        yield Finding(
            WARNING, text, "guests migrate only between hosts that run the same: reset the cards together"
        )
    if facts.psid is None:
        text = f"PF {pf} does not tell its PSID, so hosts with other cards cannot be told apart"
        yield Finding(WARNING, text, f"see devlink dev info pci/{pf}")
    enable = (
        f"run: mstconfig -d {pf} set VF_MIGRATION_MODE={MIGRATION_ENABLED}; then mstfwreset -d {pf} reset"
    )
    if facts.vf_migration_mode not in (None, MIGRATION_ENABLED):
        text = f"the firmware of PF {pf} has VF_MIGRATION_MODE={facts.vf_migration_mode}, so its VFs cannot migrate"
        yield Finding(ERROR, text, enable)
    elif facts.without_flag:
        yield Finding(ERROR, f"the firmware of PF {pf} cannot migrate its VFs", enable)


def _kernel(facts: PfFacts) -> Iterator[Finding]:
    if not facts.iommu:
        yield Finding(
            ERROR,
            f"PF {facts.pf} is behind no IOMMU, so its VFs cannot be given to guests",
            "enable VT-d or AMD-Vi in the BIOS and boot with intel_iommu=on (Intel)",
        )
    if facts.vfio_driver == GENERIC_DRIVER:
        yield Finding(
            ERROR,
            f"this kernel has no VFIO driver that can migrate the VFs of PF {facts.pf}",
            "install one with mlx5_vfio_pci (6.7 or newer): see alias vfio_pci in modules.alias",
        )
    for vf, others in sorted(facts.shared_groups.items()):
        yield Finding(
            ERROR,
            f"VF {vf} shares its IOMMU group with {', '.join(map(str, others))}, "
            "so it cannot be given to a guest alone",
            "enable ACS in the BIOS, or put the card into a slot whose root port has it",
        )


def _counts(pool: Pool, facts: PfFacts) -> Iterator[Finding]:
    if pool.vfs is not None and pool.vfs > facts.totalvfs:
        yield Finding(
            ERROR,
            f"{_key(pool, 'vfs')}: {pool.vfs} VFs are asked for, the firmware of PF {facts.pf} allows {facts.totalvfs}",
            f"run: mstconfig -d {facts.pf} set SRIOV_EN=1 NUM_OF_VFS={pool.vfs}; then mstfwreset -d {facts.pf} reset",
        )
    if pool.vfs is None and facts.numvfs == 0:
        yield Finding(
            WARNING,
            f"PF {facts.pf} has no VFs, and pool '{pool.name}' asks for none",
            f"set {_key(pool, 'vfs')}",
        )
