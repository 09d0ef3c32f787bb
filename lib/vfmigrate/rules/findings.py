# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: why VFs of a PF cannot be used in its pool (driver, kernel, IOMMU, configuration).

Pure: facts in, findings out. What is particular to the vendor of a card comes in with the facts: its findings about
firmware, and its remedies. An error means that guests could not migrate, or not even start, and stops the pool
before anything is changed; a warning is worth an administrator's time and stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from vfmigrate.config.pool import UPLINK_OF_PF, Pool
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER, MigrationSupport
from vfmigrate.text import quoted

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """An error or a warning, with a remedy."""

    severity: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Remedies:
    """The remedies for a PF from the module of its vendor."""

    #: the card offers no VFs, or too few
    sriov: str
    #: the PF has no driver, or one without devlink
    driver: str
    #: the kernel has no variant driver for its VFs
    variant: str
    #: the kernel does not let this host manage the eswitch of the PF
    eswitch: str
    #: its port speaks InfiniBand
    ethernet: str
    #: the card does not offer migration of its VFs
    migration: str


@dataclass(frozen=True)
class PfObservation:
    """What was observed of one PF; None is what could not be observed."""

    pf: PciAddress
    remedies: Remedies
    present: bool = True
    sriov: bool = True
    driver: Optional[str] = None
    devlink: bool = True
    #: why devlink did not answer, although it is there
    refusal: str = ""
    infiniband: bool = False
    iommu: bool = True
    totalvfs: int = 0
    numvfs: int = 0
    #: the VFIO driver for its VFs; None when it is not known yet
    vfio_driver: Optional[str] = None
    #: what that driver answered for one of the VFs; None when it was not asked
    support: Optional[MigrationSupport] = None
    #: VFs that share their IOMMU group, with the devices they share it with
    shared_groups: Mapping[PciAddress, Sequence[PciAddress]] = field(default_factory=dict)
    #: the findings of the vendor's module
    of_card: Sequence[Finding] = ()


def of_pf(pool: Pool, facts: PfObservation) -> list[Finding]:
    """The findings about one PF, errors first."""
    if not facts.present:
        return [
            Finding(
                ERROR, f"{_key(pool, 'pf')}: there is no PCI device {facts.pf} on this host", "see lspci -D"
            )
        ]
    if not facts.sriov:
        text = f"{_key(pool, 'pf')}: PCI device {facts.pf} is not an SR-IOV physical function"
        return [Finding(ERROR, text, f"name a PF, or {facts.remedies.sriov}")]
    if facts.infiniband:
        port = f"PF {facts.pf} is an InfiniBand port, so its VFs cannot be connected to bridge {pool.bridge}"
        return [Finding(ERROR, port, facts.remedies.ethernet)]
    if facts.refusal:
        refusal = f"PF {facts.pf} cannot be configured: {facts.refusal}"
        return [Finding(ERROR, refusal, facts.remedies.eswitch)]
    if facts.driver is None or not facts.devlink:
        state = f"its driver {facts.driver} has no devlink" if facts.driver else "it is bound to no driver"
        return [Finding(ERROR, f"PF {facts.pf} cannot be configured: {state}", facts.remedies.driver)]
    found = [*facts.of_card, *_kernel(facts), *_device(facts), *_counts(pool, facts)]
    return sorted(found, key=lambda finding: finding.severity != ERROR)


def of_bridge(pool: Pool, pools: Sequence[Pool]) -> list[Finding]:
    """The findings about the bridge of a pool: two uplinks that are not a bond would be a loop."""
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
    return [
        Finding(
            ERROR,
            text,
            "set uplink to the bond of these ports, or set it to none and plug the uplink yourself",
        )
    ]


def of_traffic(pool: Pool, datapath: Optional[str], mtus: Mapping[str, int]) -> list[Finding]:
    """The findings about the way of the frames: the datapath of the bridge (None: unknown), and the uplinks' MTUs."""
    found = []
    if datapath == "netdev":
        # A representor is an AF_PACKET port of that datapath (lib/netdev-linux.c in Open vSwitch).
        text = (
            f"bridge {pool.bridge} has the userspace datapath (datapath_type=netdev, as with DPDK), which offloads no "
            "traffic of VFs to the card"
        )
        remedy = (
            f"use a bridge of the kernel, or: ovs-vsctl set bridge {quoted(pool.bridge)} datapath_type=system"
        )
        found.append(Finding(WARNING, text, remedy))
    for name, mtu in sorted(mtus.items()):
        if pool.mtu is not None and mtu < pool.mtu:
            text = (
                f"uplink {name} of pool '{pool.name}' has MTU {mtu}, and the pool {pool.mtu}: larger frames of guests "
                "are dropped"
            )
            command = f"ip link set {quoted(name)} mtu {quoted(pool.mtu)}"
            remedy = f"run: {command}; or lower mtu in section [pool {pool.name}]"
            found.append(Finding(WARNING, text, remedy))
    return found


def _key(pool: Pool, key: str) -> str:
    """The place of a key in the configuration."""
    return f"{pool.origin}: [pool {pool.name}] {key}" if pool.origin else f"[pool {pool.name}] {key}"


def _kernel(facts: PfObservation) -> Iterator[Finding]:
    if not facts.iommu:
        yield Finding(
            ERROR,
            f"PF {facts.pf} has no IOMMU, so its VFs cannot be given to guests",
            "enable VT-d or AMD-Vi in the BIOS and boot with intel_iommu=on (Intel)",
        )
    if facts.vfio_driver == GENERIC_DRIVER:
        yield Finding(
            ERROR,
            f"this kernel has no VFIO driver that can migrate the VFs of PF {facts.pf}",
            facts.remedies.variant,
        )
    for vf, others in sorted(facts.shared_groups.items()):
        yield Finding(
            ERROR,
            f"VF {vf} shares its IOMMU group with {', '.join(map(str, others))}, "
            "so it cannot be given to a guest alone",
            "enable ACS in the BIOS, or put the card into a slot whose root port has it",
        )


def _device(facts: PfObservation) -> Iterator[Finding]:
    support = facts.support
    if support is None:
        return
    if not support.stop_copy:
        # An error of the card's vendor says why.
        if not any(finding.severity == ERROR for finding in facts.of_card):
            yield Finding(
                ERROR,
                f"the VFs of PF {facts.pf} cannot migrate: their driver {support.driver} offers no migration",
                facts.remedies.migration,
            )
    elif not support.dma_logging:
        # vfio_migration_realize() in QEMU's hw/vfio/migration.c, since 9.1
        yield Finding(
            WARNING,
            f"the VFs of PF {facts.pf} do not log the memory that they write, so QEMU migrates them only if the IOMMU "
            "of both hosts does",
            f"update {support.driver}: it must support DMA logging",
        )


def _counts(pool: Pool, facts: PfObservation) -> Iterator[Finding]:
    if pool.vfs is not None and pool.vfs > facts.totalvfs:
        yield Finding(
            ERROR,
            f"{_key(pool, 'vfs')}: {pool.vfs} VFs are configured, "
            f"but the firmware of PF {facts.pf} allows {facts.totalvfs}",
            facts.remedies.sriov,
        )
    if pool.vfs is None and facts.numvfs == 0:
        yield Finding(
            WARNING,
            f"PF {facts.pf} has no VFs, and pool '{pool.name}' does not set vfs",
            f"set {_key(pool, 'vfs')}",
        )
