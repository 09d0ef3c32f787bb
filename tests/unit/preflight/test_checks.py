# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vfmigrate check` makes of what it is told: a clean bill when all is well, a line for each flaw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable, Optional

import pytest

from vfmigrate.cli import tables
from vfmigrate.domain.domain_xml import Domain, Standby, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import CarriedVf, Disk, Traveller
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.model import host_facts
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
from vfmigrate.preflight.snapshot import AddressFacts, Line, Prospect, Side

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


def good(interface: VfInterface = INTERFACE, strategy: str = "vfio") -> Prospect:
    """A guest with a VF and a disk on NFS, for which all is well."""
    guest = Traveller(
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
    return Prospect(
        guest=guest,
        running=True,
        source=Side("source", LIBVIRT, host("here", vf(1), HELD)),
        destination=Side("destination", replace(LIBVIRT, hostname="there"), host("there", vf(1), vf(2))),
        vfs=(CarriedVf(interface, "data", strategy),),
        cpu=CpuFacts(True),
        clock_ahead=0.5,
        clock_error=0.1,
        address=AddressFacts("there", ("10.0.0.2",), 49152, "reachable"),
        dirty_mibs=10.0,
        bandwidth_mibs=None,
    )


def bad(prospect: Prospect) -> list[Line]:
    return [line for line in report.judge(prospect) if line.severity != "ok"]


def the(prospect: Prospect) -> Line:
    """The one thing that is wrong."""
    lines = bad(prospect)
    assert len(lines) == 1, lines
    return lines[0]


Change = Callable[[Prospect], Prospect]


def on(side: str, change: Callable[[Side], Side]) -> Change:
    """A change of one host."""

    def changed(prospect: Prospect) -> Prospect:
        if side == "source":
            return replace(prospect, source=change(prospect.source))
        return replace(prospect, destination=change(prospect.destination))

    return changed


def told(side: str, **changes: Any) -> Change:
    """A change of what one daemon tells."""

    def change(host: Side) -> Side:
        assert host.facts is not None
        return replace(host, facts=replace(host.facts, **changes))

    return on(side, change)


def pool(side: str, **changes: Any) -> Change:
    """A change of one host's pool."""

    def change(host: Side) -> Side:
        assert host.facts is not None
        return replace(host, facts=replace(host.facts, pools=(replace(host.facts.pools[0], **changes),)))

    return on(side, change)


def pf(side: str, **changes: Any) -> Change:
    """A change of one host's physical function."""

    def change(prospect: Prospect) -> Prospect:
        host = getattr(prospect, side)
        return pool(side, pfs=(replace(host.facts.pools[0].pfs[0], **changes),))(prospect)

    return change


def libvirt(side: str, **changes: Any) -> Change:
    """A change of one host's libvirt."""
    return on(side, lambda host: replace(host, libvirt=replace(host.libvirt, **changes)))


def guest(**changes: Any) -> Change:
    """A change of the guest."""
    return lambda prospect: replace(prospect, guest=replace(prospect.guest, **changes))


def way(**changes: Any) -> Change:
    """A change of what lies between."""
    return lambda prospect: replace(prospect, **changes)


def files(here: Optional[FileFacts], there: Optional[FileFacts]) -> Change:
    """What the hosts have of the disk."""

    def change(prospect: Prospect) -> Prospect:
        for side, file in (("source", here), ("destination", there)):
            prospect = told(side, files=(file,) if file is not None else ())(prospect)
        return prospect

    return change


def test_a_clean_bill() -> None:
    prospect = good()
    lines = report.judge(prospect)
    assert bad(prospect) == []
    assert report.can_go(lines)
    verdict = tables.verdict(report.plain(prospect, lines))
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
    "no hook": (told("destination", hook=False), "destination", "hook", "no hook"),
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
    "generic driver": (pf("source", vfs=(replace(HELD, driver="vfio-pci"),)), "source", "vf", "vfio-pci"),
    "unknown VF": (pf("source", vfs=(vf(1),)), "source", "vf", "there is no VF 0000:01:00.2"),
    "viommu": (
        guest(domain=Domain(UUID, "g", (INTERFACE,), viommu=True)),
        "source",
        "viommu",
        "virtual IOMMU",
    ),
    "USB": (guest(host_devices=("usb device",)), "source", "devices", "usb device"),
    "name taken": (way(namesake="guest 'g' running already"), "destination", "name", "running already"),
    "machine": (way(machine_problem="unknown machine"), "destination", "machine", "unknown machine"),
    "CPU": (
        way(cpu=CpuFacts(False, baseline="<cpu/>")),
        "destination",
        "cpu",
        "cannot give the guest its CPU",
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
        "does not run",
    ),
    "no bridge br0": (told("destination", bridges=(BridgeFacts("br0"),)), "destination", "networks", "'br0'"),
    "absent disk": (files(SHARED, FileFacts(DISK, False)), "pair", "disk", "is not on there"),
    "local disk": (files(LOCAL, LOCAL), "pair", "disk", "of here alone (xfs)"),
    "other disk": (files(SHARED, replace(SHARED, size=7)), "pair", "disk", "another than on here"),
    "no name": (way(address=AddressFacts("there")), "pair", "address", "cannot resolve 'there'"),
    "loopback": (
        way(address=AddressFacts("there", ("127.0.1.1",), 49152, "reachable")),
        "pair",
        "address",
        "here itself",
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
        "is off on there",
    ),
    "offload waits": (
        told("source", switch=SwitchFacts(running=True, offload="restart")),
        "source",
        "offload",
        "without effect",
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
        "not migratable, and was bound",
    ),
    "crowded": (
        pf("destination", vfs=(vf(1), *(vf(n, holder="promised", moving=True) for n in range(2, 6)))),
        "destination",
        "free-vf",
        "on the move",
    ),
    "crowded source": (
        pf("source", vfs=(HELD, *(vf(n, holder="held", moving=True, state="plugged") for n in range(3, 7)))),
        "source",
        "limit",
        "on the move",
    ),
    "no claim": (pf("source", vfs=(replace(HELD, state=None),)), "source", "vf", "without a claim"),
    "pool network stopped": (
        libvirt("destination", networks={"default": True, "vfmigrate-data": False}),
        "destination",
        "pool-network",
        "is stopped",
    ),
    "stopped": (way(running=False), "source", "running", "does not run"),
    "older QEMU": (libvirt("destination", qemu=9_000_000), "destination", "machine", "older"),
    "CPU unknown": (way(cpu=CpuFacts(None, "no idea")), "destination", "cpu", "no idea"),
    "passthrough": (guest(cpu_mode="host-passthrough"), "pair", "cpu", "host-passthrough"),
    "cached NFS": (guest(disks=(Disk("vda", "file", DISK, None),)), "pair", "disk", "cache='default'"),
    "unseen disk": (files(SHARED, FileFacts(DISK)), "pair", "disk", "could not be looked up"),
    "memory": (libvirt("destination", available_kib=1024), "destination", "memory", "1 MiB"),
    "clock": (way(clock_ahead=-7.0), "pair", "clock", "7 s behind"),
    "odd port": (
        way(address=AddressFacts("there", ("10.0.0.2",), 49152, "Network is down")),
        "pair",
        "ports",
        "Network is down",
    ),
    "too busy": (way(dirty_mibs=900.0, bandwidth_mibs=500), "pair", "dirty-rate", "will not come to an end"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error(name: str) -> None:
    change, side, what, said = ERRORS[name]
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "error")
    assert said in line.text
    assert line.remedy or name in ("no switch",)
    assert not report.can_go(report.judge(change(good())))


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning(name: str) -> None:
    change, side, what, said = WARNINGS[name]
    line = the(change(good()))
    assert (line.side, line.check, line.severity) == (side, what, "warning")
    assert said in line.text
    assert line.remedy
    assert report.can_go(report.judge(change(good())))


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_daemon_that_does_not_answer(side: str) -> None:
    """It is told once, and what it would have told is left open."""
    trouble = Unreachable("vfmigrated does not answer", "run: systemctl start vfmigrated")
    lines = bad(on(side, lambda host: replace(host, facts=None, trouble=trouble))(good()))
    mine = [line for line in lines if line.severity == "error"]
    assert [(line.side, line.check, line.text) for line in mine] == [
        (side, "daemon", "vfmigrated does not answer")
    ]


def test_a_guest_without_vfs_needs_no_daemon() -> None:
    prospect = replace(good(), vfs=(), clock_ahead=None)
    trouble = HostError("nobody there")
    for side in ("source", "destination"):
        prospect = on(side, lambda host: replace(host, facts=None, trouble=trouble))(prospect)
    assert all(line.severity != "error" for line in bad(prospect))


def test_a_vf_promised_to_this_guest_is_free_for_it() -> None:
    promised = vf(1, holder="promised to guest 'g'", guest=UUID, state="reserved")
    assert bad(pf("destination", vfs=(promised,))(good())) == []


def test_disks_that_are_copied() -> None:
    prospect = way(copies_storage=True)(files(LOCAL, FileFacts(DISK, False))(good()))
    assert bad(prospect) == []
    cdrom = guest(disks=(Disk("sda", "file", DISK, None, readonly=True),))(prospect)
    assert the(cdrom).text == f"disk sda ({DISK}) is not on there"


def test_more_vfs_than_a_card_moves() -> None:
    several = tuple(
        VfInterface(n, "interface", f"52:54:00:00:00:0{n}", PciAddress(0, 1, 0, n), mark=Mark(pool="data"))
        for n in range(1, 6)
    )
    held = tuple(vf(n, holder="held by guest 'g'", guest=UUID, state="plugged") for n in range(1, 6))
    prospect = replace(good(), vfs=tuple(CarriedVf(each, "data", "vfio") for each in several))
    prospect = pf("source", vfs=held)(pf("destination", vfs=tuple(vf(n) for n in range(1, 6)))(prospect))
    lines = bad(prospect)
    assert [(line.side, line.check, line.severity) for line in lines] == [
        ("source", "limit", "error"),
        ("destination", "free-vf", "warning"),
    ]
    assert "5 VFs of PF 0000:01:00.0" in lines[0].text


# -- the other ways of crossing


def test_replug_is_for_our_own_command() -> None:
    line = the(replace(good(), vfs=(CarriedVf(INTERFACE, "data", "replug"),)))
    assert (line.check, line.severity, line.remedy) == ("strategy", "warning", "run: vfmigrate migrate g")


def test_a_device_that_is_no_vf_of_ours() -> None:
    line = the(replace(good(), vfs=(CarriedVf(replace(INTERFACE, mark=None), None, "vfio"),)))
    assert (line.check, line.severity) == ("strategy", "error")
    assert "is of no pool of here" in line.text


def paired(standby: Optional[Standby]) -> Prospect:
    interface = replace(INTERFACE, teaming="transient", standby="ua-s")
    prospect = good(interface, "failover")
    standbys = (standby,) if standby is not None else ()
    return guest(domain=Domain(UUID, "g", (interface,), viommu=False, standbys=standbys))(prospect)


STANDBY = Standby("ua-s", MAC, "virtio", "bridge", "br0", openvswitch=True, vlan=42)


def test_a_failover_pair() -> None:
    assert bad(paired(STANDBY)) == []
    line = the(paired(None))
    assert (line.check, line.severity, "no standby" in line.text) == ("strategy", "error", True)
    line = the(paired(replace(STANDBY, vlan=43)))
    assert (line.check, line.severity, "VLAN 43" in line.text) == ("vlan", "error", True)
    line = the(told("destination", bridges=(BridgeFacts("br0"),))(paired(STANDBY)))
    assert "the standby of its failover pair needs" in line.text


def test_a_failover_pair_needs_no_state_to_travel() -> None:
    """Neither the same firmware nor a flag nor a variant driver."""
    prospect = paired(STANDBY)
    prospect = pf("destination", firmware="1.2.3", psid="MT_9")(prospect)
    prospect = pf("source", vfs=(replace(HELD, migratable=False, driver="vfio-pci"),))(prospect)
    assert bad(prospect) == []


def test_a_strategy_that_lacks_its_standby() -> None:
    interface = replace(INTERFACE, mark=Mark(mac=MAC, pool="data", strategy="failover"))
    line = the(good(interface, "failover"))
    assert "nothing that stands by" in line.text


# -- how it is told


def test_for_programs() -> None:
    prospect = pf("destination", firmware="28.39.1")(good())
    lines = report.judge(prospect)
    plain = json.loads(json.dumps(report.plain(prospect, lines)))
    assert {key: plain[key] for key in ("schema", "guest", "source", "destination", "can_go")} == {
        "schema": 1,
        "guest": "g",
        "source": "here",
        "destination": "there",
        "can_go": False,
    }
    (card,) = [line for line in plain["checks"] if line["check"] == "card"]
    assert set(card) == {"side", "check", "severity", "text", "remedy", "detail"}


def test_for_a_terminal() -> None:
    prospect = way(cpu=CpuFacts(False, baseline="<cpu>\n  <model>old</model>\n</cpu>"))(good())
    shown = list(tables.check(report.plain(prospect, report.judge(prospect)), 80))
    assert [line for line in shown if not line.startswith(" ")][:3] == [
        "source here:",
        "destination there:",
        "both hosts:",
    ]
    assert all(len(line) <= 80 for line in shown)
    assert "             <model>old</model>" in shown
    assert shown[-1].startswith("guest 'g' cannot migrate to there: 1 error, 0 warnings")


def test_hosts_of_the_same_version_understand_each_other() -> None:
    here = good().source.facts
    assert here is not None
    assert host_facts.read(json.loads(json.dumps(here.plain()))) == here
