# SPDX-License-Identifier: GPL-2.0-or-later
"""The preflight checks: no finding for a good snapshot, one result for each fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable, Optional

import pytest

from vfmigrate.cli import tables
from vfmigrate.domain.domain_xml import Domain, Standby, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import Disk, GuestVf, MigratingGuest
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.model import host_facts, strategy
from vfmigrate.model.host_facts import (
    BridgeFacts,
    FileFacts,
    FindingFacts,
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
    fine = VfFacts(
        f"0000:01:00.{index}", driver="mlx5_vfio_pci", vfio=True, migratable=True, msix=16, state=None
    )
    return replace(fine, **changes)


def host(name: str, *vfs: VfFacts, **changes: Any) -> HostFacts:
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


def test_no_problem() -> None:
    snapshot = good()
    lines = report.judge(snapshot)
    assert bad(snapshot) == []
    assert report.can_migrate(lines)
    verdict = tables.verdict(report.plain(snapshot, lines))
    assert verdict.startswith("guest 'g' can migrate to there: 0 errors, 0 warnings, ")
    assert {line.side for line in lines} == {"source", "destination", "pair"}


SHARED = FileFacts(DISK, True, "file", "nfs4", 100)
LOCAL = FileFacts(DISK, True, "file", "xfs", 100)
ON_ONE = (PoolFacts("other", "br-other"),)

ERRORS: Mapping[str, tuple[Change, str, str, str]] = {
    # what is wrong: (how to make it so, side, check, what is said)
    "old libvirt": (libvirt("source", libvirt=9_000_000), "source", "libvirt", "libvirt 9.0.0"),
    "old QEMU": (libvirt("source", qemu=7_002_003), "source", "libvirt", "QEMU 7.2.3"),
    "old kernel": (told("source", kernel="6.6.9-1.el9"), "source", "kernel", "kernel 6.6.9-1.el9"),
    "no hook": (told("destination", hook=False), "destination", "hook", "does not find vfmigrate's hook"),
    "no switch": (
        told("destination", switch=SwitchFacts(problem="it is down")),
        "destination",
        "openvswitch",
        "it is down",
    ),
    "no vswitchd": (
        told("destination", switch=SwitchFacts(offload="on")),
        "destination",
        "openvswitch",
        "ovs-vswitchd",
    ),
    "no pool": (told("destination", pools=ON_ONE), "destination", "pool", "its pools: other"),
    "no bridge": (pool("destination", bridge_exists=False), "destination", "bridge", "'br-data'"),
    "other VLANs": (pool("destination", vlans=(43,)), "destination", "vlan", "VLAN 42"),
    "no free VF": (
        pf("destination", vfs=(vf(1, holder="held by guest 'x'"),)),
        "destination",
        "free-vf",
        "held by guest 'x'",
    ),
    "no VFs": (pf("destination", vfs=()), "destination", "free-vf", "has no free VF"),
    "other firmware": (pf("destination", firmware="28.39.1"), "pair", "card", "28.39.1 on there"),
    "other PSID": (pf("destination", psid="MT_2"), "pair", "card", "MT_2"),
    "other MSI-X": (pf("destination", vfs=(vf(1, msix=8),)), "pair", "card", "16 MSI-X"),
    "legacy": (pf("destination", mode="legacy"), "destination", "cards", "legacy"),
    "PF gone": (
        pool("destination", findings=(FindingFacts("error", "there is no PCI device", "see lspci"),)),
        "destination",
        "cards",
        "there is no PCI device",
    ),
    "bound early": (
        pf("destination", vfs=(vf(1, bound_early=True),)),
        "destination",
        "vf-ready",
        "before it was made migratable",
    ),
    "not migratable": (
        pf("source", vfs=(replace(HELD, migratable=False),)),
        "source",
        "vf",
        "not migratable",
    ),
    "bound too early": (pf("source", vfs=(replace(HELD, bound_early=True),)), "source", "vf", "bound before"),
    "no flag": (pf("source", vfs=(replace(HELD, migratable=None),)), "source", "vf", "firmware of PF"),
    "no flag on a card that needs it": (
        pf("source", pci_id="15b3:101d", vfs=(replace(HELD, migratable=None),)),
        "source",
        "vf",
        "here: the firmware of PF 0000:01:00.0 cannot migrate its VFs",
    ),
    "generic driver": (pf("source", vfs=(replace(HELD, driver="vfio-pci"),)), "source", "vf", "vfio-pci"),
    "unknown VF": (pf("source", vfs=(vf(1),)), "source", "vf", "VF 0000:01:00.2, the VF with MAC"),
    "viommu": (
        guest(domain=Domain(UUID, "g", (INTERFACE,), viommu=True)),
        "source",
        "viommu",
        "virtual IOMMU",
    ),
    "USB": (guest(host_devices=("usb device",)), "source", "devices", "usb device"),
    "name taken": (way(name_conflict="guest 'g' running already"), "destination", "name", "running already"),
    "machine": (way(machine_problem="unknown machine"), "destination", "machine", "unknown machine"),
    "CPU": (
        way(cpu=CpuFacts(False, baseline="<cpu/>")),
        "destination",
        "cpu",
        "cannot provide the guest's CPU",
    ),
    "no network": (
        libvirt("destination", networks={"vfmigrate-data": True}),
        "destination",
        "networks",
        "no network 'default'",
    ),
    "stopped network": (
        libvirt("destination", networks={"default": False, "vfmigrate-data": True}),
        "destination",
        "networks",
        "is not running",
    ),
    "no bridge br0": (told("destination", bridges=(BridgeFacts("br0"),)), "destination", "networks", "'br0'"),
    "absent disk": (
        files(SHARED, FileFacts(DISK, False)),
        "pair",
        "disk",
        f"there: disk vda ({DISK}) does not exist",
    ),
    "local disk": (files(LOCAL, LOCAL), "pair", "disk", "on a local file system (xfs)"),
    "other disk": (files(SHARED, replace(SHARED, size=7)), "pair", "disk", "differs from that on here"),
    "no name": (way(address=AddressFacts("there")), "pair", "address", "cannot resolve 'there'"),
    "loopback": (
        way(address=AddressFacts("there", ("127.0.1.1",), 49152, "reachable")),
        "pair",
        "address",
        "to here itself instead of there",
    ),
    "firewall": (
        way(address=AddressFacts("there", ("10.0.0.2",), 49152, "filtered")),
        "pair",
        "ports",
        "firewall",
    ),
}

WARNINGS: Mapping[str, tuple[Change, str, str, str]] = {
    "offload off": (
        told("destination", switch=SwitchFacts(running=True, offload="off")),
        "destination",
        "offload",
        "there: hardware offload of Open vSwitch is off",
    ),
    "offload waits": (
        told("source", switch=SwitchFacts(running=True, offload="restart")),
        "source",
        "offload",
        "not in effect",
    ),
    "vswitchd of the source": (
        told("source", switch=SwitchFacts(offload="on")),
        "source",
        "openvswitch",
        "ovs-vswitchd",
    ),
    "flag off": (
        pf("destination", vfs=(vf(1, migratable=False), vf(2))),
        "destination",
        "vf-ready",
        "not migratable, and was bound to mlx5_vfio_pci before",
    ),
    "crowded": (
        pf("destination", vfs=(vf(1), *(vf(n, holder="reserved", moving=True) for n in range(2, 6)))),
        "destination",
        "free-vf",
        "are migrating already",
    ),
    "crowded source": (
        pf("source", vfs=(HELD, *(vf(n, holder="held", moving=True, state="plugged") for n in range(3, 7)))),
        "source",
        "limit",
        "are migrating already",
    ),
    "no claim": (pf("source", vfs=(replace(HELD, state=None),)), "source", "vf", "has no claim"),
    "pool network stopped": (
        libvirt("destination", networks={"default": True, "vfmigrate-data": False}),
        "destination",
        "pool-network",
        "is stopped",
    ),
    "stopped": (way(running=False), "source", "running", "is not running"),
    "older QEMU": (libvirt("destination", qemu=9_000_000), "destination", "machine", "older"),
    "CPU unknown": (way(cpu=CpuFacts(None, "no idea")), "destination", "cpu", "no idea"),
    "passthrough": (guest(cpu_mode="host-passthrough"), "pair", "cpu", "host-passthrough"),
    "cached NFS": (guest(disks=(Disk("vda", "file", DISK, None),)), "pair", "disk", "cache='default'"),
    "unseen disk": (files(SHARED, FileFacts(DISK)), "pair", "disk", "could not check whether"),
    "memory": (libvirt("destination", available_kib=1024), "destination", "memory", "1 MiB"),
    "clock": (way(clock_ahead=-7.0), "pair", "clock", "7 s behind"),
    "odd port": (
        way(address=AddressFacts("there", ("10.0.0.2",), 49152, "Network is down")),
        "pair",
        "ports",
        "Network is down",
    ),
    "too busy": (way(dirty_mibs=900.0, bandwidth_mibs=500), "pair", "dirty-rate", "will not converge"),
}


@pytest.mark.parametrize("pci_id", ["8086:10c9", None])
def test_a_card_that_is_not_known_to_need_the_flag(pci_id: Optional[str]) -> None:
    """None is from an older vfmigrate, whose own findings say it."""
    snapshot = pf("source", pci_id=pci_id, vfs=(replace(HELD, migratable=None),))(good())
    assert bad(pf("destination", pci_id=pci_id, vfs=(vf(1, migratable=None),))(snapshot)) == []


@pytest.mark.parametrize("name", ERRORS)
def test_each_error(name: str) -> None:
    change, side, what, said = ERRORS[name]
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "error")
    assert said in line.text
    assert line.remedy or name in ("no switch",)
    assert not report.can_migrate(report.judge(change(good())))


@pytest.mark.parametrize("name", WARNINGS)
def test_each_warning(name: str) -> None:
    change, side, what, said = WARNINGS[name]
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "warning")
    assert said in line.text
    assert line.remedy
    assert report.can_migrate(report.judge(change(good())))


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_daemon_that_does_not_answer(side: str) -> None:
    """One error; the checks that need its facts are left out."""
    trouble = Unreachable("vfmigrated does not answer", "run: systemctl start vfmigrated")
    lines = bad(on(side, lambda host: replace(host, facts=None, trouble=trouble))(good()))
    mine = [line for line in lines if line.severity == "error"]
    assert [(line.side, line.check, line.text) for line in mine] == [
        (side, "daemon", "vfmigrated does not answer")
    ]


def test_a_guest_without_vfs_needs_no_daemon() -> None:
    snapshot = replace(good(), vfs=(), clock_ahead=None)
    trouble = HostError("nobody there")
    for side in ("source", "destination"):
        snapshot = on(side, lambda host: replace(host, facts=None, trouble=trouble))(snapshot)
    assert all(line.severity != "error" for line in bad(snapshot))


def test_a_vf_reserved_for_this_guest_counts_as_free() -> None:
    reserved = vf(1, holder="reserved for guest 'g'", guest=UUID, state="reserved")
    assert bad(pf("destination", vfs=(reserved,))(good())) == []


def test_disks_that_are_copied() -> None:
    snapshot = way(copies_storage=True)(files(LOCAL, FileFacts(DISK, False))(good()))
    assert bad(snapshot) == []
    cdrom = guest(disks=(Disk("sda", "file", DISK, None, readonly=True),))(snapshot)
    assert the(cdrom).text == f"there: disk sda ({DISK}) does not exist"


def test_more_vfs_than_a_card_migrates() -> None:
    several = tuple(
        VfInterface(n, "interface", f"52:54:00:00:00:0{n}", PciAddress(0, 1, 0, n), mark=Mark(pool="data"))
        for n in range(1, 6)
    )
    held = tuple(vf(n, holder="held by guest 'g'", guest=UUID, state="plugged") for n in range(1, 6))
    snapshot = replace(good(), vfs=tuple(GuestVf(each, "data", strategy.named("vfio")) for each in several))
    snapshot = pf("source", vfs=held)(pf("destination", vfs=tuple(vf(n) for n in range(1, 6)))(snapshot))
    lines = bad(snapshot)
    assert [(line.side, line.check, line.severity) for line in lines] == [
        ("source", "limit", "error"),
        ("destination", "free-vf", "warning"),
    ]
    assert "5 VFs of PF 0000:01:00.0" in lines[0].text


# -- the other strategies


def test_replug_needs_vfmigrate_migrate() -> None:
    line = the(replace(good(), vfs=(GuestVf(INTERFACE, "data", strategy.named("replug")),)))
    assert (line.check, line.severity, line.remedy) == (
        "strategy",
        "warning",
        "run: vfmigrate migrate g DESTURI",
    )


def test_a_vf_of_no_pool() -> None:
    line = the(replace(good(), vfs=(GuestVf(replace(INTERFACE, mark=None), None, strategy.named("vfio")),)))
    assert (line.check, line.severity) == ("strategy", "error")
    assert line.text.startswith(f"here: the VF with MAC {MAC} belongs to no pool")


def paired(standby: Optional[Standby]) -> Snapshot:
    interface = replace(INTERFACE, teaming="transient", standby="ua-s")
    snapshot = good(interface, "failover")
    standbys = (standby,) if standby is not None else ()
    return guest(domain=Domain(UUID, "g", (interface,), viommu=False, standbys=standbys))(snapshot)


STANDBY = Standby("ua-s", MAC, "virtio", "bridge", "br0", openvswitch=True, vlan=42)


def test_a_failover_pair() -> None:
    assert bad(paired(STANDBY)) == []
    line = the(paired(None))
    assert (line.check, line.severity, "no standby" in line.text) == ("strategy", "error", True)
    line = the(paired(replace(STANDBY, vlan=43)))
    assert (line.check, line.severity, "VLAN 43" in line.text) == ("vlan", "error", True)
    line = the(told("destination", bridges=(BridgeFacts("br0"),))(paired(STANDBY)))
    assert "the standby of its failover pair needs" in line.text


def test_a_failover_pair_migrates_without_device_state() -> None:
    """Neither the same firmware nor a flag nor a variant driver."""
    snapshot = paired(STANDBY)
    snapshot = pf("destination", firmware="1.2.3", psid="MT_9")(snapshot)
    snapshot = pf("source", vfs=(replace(HELD, migratable=False, driver="vfio-pci"),))(snapshot)
    assert bad(snapshot) == []


def test_strategy_failover_without_a_standby() -> None:
    interface = replace(INTERFACE, mark=Mark(mac=MAC, pool="data", strategy="failover"))
    line = the(good(interface, "failover"))
    assert "no standby" in line.text


# -- output


def test_json() -> None:
    snapshot = pf("destination", firmware="28.39.1")(good())
    lines = report.judge(snapshot)
    plain = json.loads(json.dumps(report.plain(snapshot, lines)))
    assert {key: plain[key] for key in ("schema", "guest", "source", "destination", "can_go")} == {
        "schema": 1,
        "guest": "g",
        "source": "here",
        "destination": "there",
        "can_go": False,
    }
    (card,) = [line for line in plain["checks"] if line["check"] == "card"]
    assert set(card) == {"side", "check", "severity", "text", "remedy", "detail"}


def test_terminal() -> None:
    snapshot = way(cpu=CpuFacts(False, baseline="<cpu>\n  <model>old</model>\n</cpu>"))(good())
    shown = list(tables.check(report.plain(snapshot, report.judge(snapshot)), 80))
    assert [line for line in shown if not line.startswith(" ")][:3] == [
        "source here:",
        "destination there:",
        "both hosts:",
    ]
    assert all(len(line) <= 80 for line in shown)
    assert "             <model>old</model>" in shown
    assert shown[-1].startswith("guest 'g' cannot migrate to there: 1 error, 0 warnings")


def test_host_facts_survive_json() -> None:
    here = good().source.facts
    assert here is not None
    assert host_facts.read(json.loads(json.dumps(here.plain()))) == here
