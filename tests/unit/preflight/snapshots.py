# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot of two hosts for which all is well, and changes of it, for the tests of the preflight checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional

from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import Disk, GuestVf, MigratingGuest
from vfmigrate.model import strategy
from vfmigrate.model.host_facts import (
    BridgeFacts,
    FileFacts,
    HostFacts,
    MigrationFacts,
    PfFacts,
    PoolFacts,
    SwitchFacts,
    VfFacts,
)
from vfmigrate.model.libvirt_facts import CpuFacts, LibvirtFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.preflight import report
from vfmigrate.preflight.snapshot import AddressFacts, CheckResult, HostSnapshot, Snapshot

MAC = "52:54:00:00:00:02"
UUID = "22222222-2222-4222-8222-222222222222"
ADDRESS = PciAddress(0, 1, 0, 2)
DISK = "/srv/disk"


def vf(index: int, **changes: Any) -> VfFacts:
    """A VF that is free and ready to migrate."""
    fine = VfFacts(
        f"0000:01:00.{index}", driver="mlx5_vfio_pci", vfio=True, migratable=True, msix=16, state=None
    )
    return replace(fine, **changes)


def host(name: str, *vfs: VfFacts, **changes: Any) -> HostFacts:
    """A host that is ready, with these VFs in its pool."""
    pf = PfFacts(
        "0000:01:00.0",
        pci_id="15b3:1021",
        psid="MT_1",
        firmware="28.41.1000",
        mode="switchdev",
        variant_driver="mlx5_vfio_pci",
        vfs=vfs,
    )
    pool = PoolFacts(
        "data", "br-data", bridge_exists=True, vlans=(42, 43), network="vfmigrate-data", pfs=(pf,)
    )
    fine = HostFacts(
        host=name,
        vfmigrate="0.1.0",
        kernel="6.12.1",
        time=1000.0,
        switch=SwitchFacts(running=True, offload="on"),
        migration=MigrationFacts(),
        pools=(pool,),
        hook=True,
        bridges=(BridgeFacts("br0", "linux"),),
        files=(FileFacts(DISK, True, "file", "nfs4", 100),),
    )
    return replace(fine, **changes)


HELD = vf(2, holder="held by guest 'g'", guest=UUID, mac=MAC, state="plugged", strategy="vfio")
LIBVIRT = LibvirtFacts("here", 11_003_000, 10_000_000, {"default": True, "vfmigrate-data": True}, 8 << 20)
INTERFACE = VfInterface(1, "interface", MAC, ADDRESS, mark=Mark(mac=MAC, pool="data", vlan=42))


def good(interface: VfInterface = INTERFACE, name: str = "vfio") -> Snapshot:
    """A guest with a VF and a disk on NFS, for which all is well."""
    guest = MigratingGuest(
        domain=Domain(UUID, "g", (interface,), viommu=False),
        machine="pc-q35-10.0",
        arch="x86_64",
        virt="kvm",
        emulator="/usr/bin/qemu-system-x86_64",
        cpu="<cpu/>",
        cpu_mode="custom",
        memory_kib=1 << 20,
        disks=(Disk("vda", "file", DISK, "none"), Disk("vdb", "network")),
        networks=("default",),
        bridges=("br0",),
    )
    return Snapshot(
        guest=guest,
        running=True,
        source=HostSnapshot("source", LIBVIRT, host("here", vf(1), HELD)),
        destination=HostSnapshot(
            "destination", replace(LIBVIRT, hostname="there"), host("there", vf(1), vf(2))
        ),
        vfs=(GuestVf(interface, "data", strategy.named(name)),),
        cpu=CpuFacts(True),
        clock_ahead=0.5,
        clock_error=0.1,
        address=AddressFacts("there", ("10.0.0.2",), 49152, "reachable"),
        dirty_mibs=10.0,
        bandwidth_mibs=None,
    )


def bad(snapshot: Snapshot) -> list[CheckResult]:
    """Everything that is wrong."""
    return [line for line in report.judge(snapshot) if line.severity != "ok"]


def the(snapshot: Snapshot) -> CheckResult:
    """The one thing that is wrong."""
    lines = bad(snapshot)
    assert len(lines) == 1, lines
    return lines[0]


Change = Callable[[Snapshot], Snapshot]


def on(side: str, change: Callable[[HostSnapshot], HostSnapshot]) -> Change:
    """A change of one host."""

    def changed(snapshot: Snapshot) -> Snapshot:
        if side == "source":
            return replace(snapshot, source=change(snapshot.source))
        return replace(snapshot, destination=change(snapshot.destination))

    return changed


def told(side: str, **changes: Any) -> Change:
    """A change of what one daemon tells."""

    def change(host: HostSnapshot) -> HostSnapshot:
        assert host.facts is not None
        return replace(host, facts=replace(host.facts, **changes))

    return on(side, change)


def pool(side: str, **changes: Any) -> Change:
    """A change of one host's pool."""

    def change(host: HostSnapshot) -> HostSnapshot:
        assert host.facts is not None
        return replace(host, facts=replace(host.facts, pools=(replace(host.facts.pools[0], **changes),)))

    return on(side, change)


def pf(side: str, **changes: Any) -> Change:
    """A change of one host's physical function."""

    def change(snapshot: Snapshot) -> Snapshot:
        host = getattr(snapshot, side)
        return pool(side, pfs=(replace(host.facts.pools[0].pfs[0], **changes),))(snapshot)

    return change


def libvirt(side: str, **changes: Any) -> Change:
    """A change of one host's libvirt."""
    return on(side, lambda host: replace(host, libvirt=replace(host.libvirt, **changes)))


def guest(**changes: Any) -> Change:
    """A change of the guest."""
    return lambda snapshot: replace(snapshot, guest=replace(snapshot.guest, **changes))


def way(**changes: Any) -> Change:
    """A change of what lies between."""
    return lambda snapshot: replace(snapshot, **changes)


def files(here: Optional[FileFacts], there: Optional[FileFacts]) -> Change:
    """What the hosts have of the disk."""

    def change(snapshot: Snapshot) -> Snapshot:
        for side, file in (("source", here), ("destination", there)):
            snapshot = told(side, files=(file,) if file is not None else ())(snapshot)
        return snapshot

    return change


#: of a check that finds a fault: a change that makes the fault, and side, name and part of the text of the result
Fault = tuple[Change, str, str, str]


def check_error(fault: Fault) -> None:
    """The fault is found, by one check, as an error, which keeps the guest from migrating."""
    change, side, what, said = fault
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "error")
    assert said in line.text
    assert not report.can_migrate(report.judge(change(good())))


def check_warning(fault: Fault) -> None:
    """The fault is found, by one check, as a warning, which has a remedy and does not keep the guest from migrating."""
    change, side, what, said = fault
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "warning")
    assert said in line.text
    assert line.remedy
    assert report.can_migrate(report.judge(change(good())))
