# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel, variant driver, QEMU and the answers of VFs: what is seen decides, not the version of a kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest

from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import GuestVf, MigratingGuest
from vfmigrate.model import strategy
from vfmigrate.model.host_facts import (
    FindingFacts,
    HostFacts,
    MigrationFacts,
    PfFacts,
    PoolFacts,
    SwitchFacts,
    VfFacts,
)
from vfmigrate.model.libvirt_facts import LibvirtFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.preflight import report
from vfmigrate.preflight.snapshot import CheckResult, HostSnapshot, Snapshot

UUID = "22222222-2222-4222-8222-222222222222"
PF = "0000:01:00.0"
DRIVER = "mlx5_vfio_pci"
ALL = MigrationSupport(DRIVER, True, True, True, True, 4 << 20)
NO_DRIVER = f"this kernel has no VFIO driver that can migrate the VFs of PF {PF}"

#: uname -r of systems that have the driver by backport, or beside the kernel, and of kernels that always had it
RELEASES = (
    "4.18.0-553.el8_10.x86_64",
    "5.4.17-2136.333.5.el8uek.x86_64",
    "5.14.0-427.13.1.el9_4.x86_64",
    "5.15.0-300.163.18.el9uek.x86_64",
    "5.14.21-150500.55.49-default",
    "6.4.0-150600.23.25-default",
    "6.12.0-55.9.1.el10_0.x86_64",
    "6.6.9",
    "6.7.0-rc1+",
    "6.12.118+deb13-amd64",
)


def interface(number: int) -> VfInterface:
    mac = f"52:54:00:00:00:0{number}"
    return VfInterface(
        number, "interface", mac, PciAddress(0, 1, 0, number), mark=Mark(mac=mac, pool="data", vlan=42)
    )


def facts(name: str, held: int, **changes: Any) -> HostFacts:
    def vf(number: int) -> VfFacts:
        fine = VfFacts(f"0000:01:00.{number}", driver=DRIVER, vfio=True, migratable=True, msix=16)
        taken: dict[str, Any] = {
            "holder": "held by guest 'g'",
            "guest": UUID,
            "state": "plugged",
            "strategy": "vfio",
        }
        return replace(fine, **taken) if number <= held else fine

    pf = PfFacts(
        PF,
        pci_id="15b3:1021",
        psid="MT_1",
        firmware="28.41.1000",
        mode="switchdev",
        variant_driver=DRIVER,
        support=ALL,
        vfs=tuple(vf(number) for number in range(1, 5)),
    )
    findings = changes.pop("findings", ())
    kernel = changes.pop("kernel", "6.12.1")
    pool = PoolFacts("data", "br-data", bridge_exists=True, vlans=(42,), pfs=(replace(pf, **changes),))
    return HostFacts(
        host=name,
        vfmigrate="0.1.0",
        kernel=kernel,
        time=1000.0,
        switch=SwitchFacts(running=True, offload="on"),
        migration=MigrationFacts(),
        pools=(replace(pool, findings=findings),),
        hook=True,
    )


def snapshot(
    here: Optional[dict[str, Any]] = None,
    there: Optional[dict[str, Any]] = None,
    *,
    vfs: int = 1,
    strategy_name: str = "vfio",
    libvirt: Optional[dict[str, Any]] = None,
    **changes: Any,
) -> Snapshot:
    """A guest for which all is well, except for what is given: of the PF and kernel of each host, and of libvirt."""
    interfaces = tuple(interface(number) for number in range(1, vfs + 1))
    guest = MigratingGuest(
        domain=Domain(UUID, "g", interfaces, viommu=False),
        machine="pc-q35-10.0",
        arch="x86_64",
        virt="kvm",
        emulator="/usr/bin/qemu-system-x86_64",
        cpu=None,
    )
    known = replace(LibvirtFacts("here", 11_003_000, 10_000_000), **(libvirt or {}))
    source = HostSnapshot("source", known, facts("here", vfs, **(here or {})))
    destination = HostSnapshot(
        "destination", replace(known, hostname="there"), facts("there", 0, **(there or {}))
    )
    row = strategy.named(strategy_name)
    carried = tuple(GuestVf(each, "data", row) for each in interfaces)
    return replace(Snapshot(guest, True, source, destination, carried), **changes)


def bad(snapshot: Snapshot) -> list[CheckResult]:
    return [line for line in report.judge(snapshot) if line.severity != "ok"]


def the(snapshot: Snapshot) -> CheckResult:
    (line,) = bad(snapshot)
    return line


def said(snapshot: Snapshot, check: str) -> list[str]:
    return [line.text for line in report.judge(snapshot) if line.check == check]


def test_a_pair_of_hosts_without_findings() -> None:
    lines = snapshot()
    assert bad(lines) == []
    assert said(lines, "kernel") == ["kernel 6.12.1 has mlx5_vfio_pci"] * 2
    can = f"VFs of PF {PF} can migrate (mlx5_vfio_pci: P2P, pre-copy, DMA logging, 4 MiB of state)"
    assert said(lines, "device") == [can] * 2


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("support", [ALL, None], ids=["asked", "not asked"])
def test_no_kernel_is_judged_by_its_number(release: str, support: Optional[MigrationSupport]) -> None:
    """A host that has what a migration needs, on any kernel."""
    seen = {"kernel": release, "support": support}
    lines = snapshot(seen, seen)
    assert bad(lines) == []
    assert report.can_migrate(report.judge(lines))
    assert said(lines, "kernel") == [f"kernel {release} has mlx5_vfio_pci"] * 2


@pytest.mark.parametrize("release", RELEASES)
def test_a_kernel_without_the_driver_is_an_error_whatever_its_number(release: str) -> None:
    line = the(snapshot(there={"kernel": release, "variant_driver": "vfio-pci", "support": None}))
    assert (line.side, line.check, line.severity) == ("destination", "kernel", "error")
    assert (
        line.text == f"there: kernel {release} has no VFIO driver that can migrate the VFs of PF 0000:01:00.0"
    )
    assert "install a kernel that has mlx5_vfio_pci" in line.remedy


def test_a_missing_driver_that_is_among_the_findings_is_reported_once() -> None:
    finding = FindingFacts("error", NO_DRIVER, "install it")
    line = the(snapshot(there={"variant_driver": "vfio-pci", "support": None, "findings": (finding,)}))
    assert (line.check, line.text) == ("cards", f"there: {NO_DRIVER}")


def test_without_a_vf_whose_state_migrates_no_driver_is_needed() -> None:
    seen = {"variant_driver": "vfio-pci", "support": MigrationSupport(DRIVER)}
    lines = report.judge(snapshot(seen, seen, strategy_name="failover", libvirt={"qemu": 6_002_000}))
    assert {line.check for line in lines} & {"kernel", "device", "qemu", "downtime"} == set()


@pytest.mark.parametrize("side", ["here", "there"])
def test_a_vf_that_answers_no_is_an_error(side: str) -> None:
    changes: dict[str, Any] = {side: {"support": MigrationSupport(DRIVER)}}
    line = the(snapshot(**changes))
    assert (line.check, line.severity) == ("device", "error")
    assert (
        line.text
        == f"{side}: the VFs of PF {PF} cannot migrate: their driver mlx5_vfio_pci offers no migration"
    )
    assert "VF_MIGRATION_MODE=2" in line.remedy


def test_an_answer_that_is_among_the_findings_is_reported_once() -> None:
    finding = FindingFacts("error", f"the firmware of PF {PF} cannot migrate its VFs", "update it")
    line = the(snapshot(there={"support": MigrationSupport(DRIVER), "findings": (finding,)}))
    assert line.check == "cards"


def test_vfs_that_were_not_asked_are_unknown_and_no_finding() -> None:
    why = f"PF {PF} has no free VF that may be asked"
    lines = snapshot(there={"support": None, "support_unknown": why})
    assert bad(lines) == []
    assert said(lines, "device")[1] == f"VFs of PF {PF} were not asked: {why}; judged by kernel and firmware"


def test_a_daemon_that_knows_of_no_such_question_says_nothing() -> None:
    lines = snapshot(there={"support": None})
    assert (bad(lines), len(said(lines, "device"))) == ([], 1)


def test_several_vfs_need_p2p() -> None:
    without = {"support": replace(ALL, p2p=False)}
    assert bad(snapshot(without, without, vfs=1)) == []
    assert bad(snapshot(vfs=2)) == []
    line = the(snapshot(there=without, vfs=2))
    assert (line.side, line.check, line.severity) == ("destination", "device", "error")
    assert "there: QEMU migrates a guest with several VFs only if their drivers support P2P" in line.text


def test_a_vf_that_can_migrate_overrules_the_missing_flag() -> None:
    """The last word is the device's, not the inference from what its port offers."""
    flagless = facts("here", 1).pools[0].pfs[0].vfs
    without = {"vfs": tuple(replace(vf, migratable=None) for vf in flagless)}
    assert bad(snapshot(here=without)) == []
    line = the(snapshot(here={**without, "support": None}))
    assert "cannot migrate its VFs" in line.text


@pytest.mark.parametrize(
    ("qemu", "severity"), [(7_002_003, "warning"), (8_000_005, "warning"), (8_001_000, "ok")]
)
def test_an_older_qemu_may_have_a_backport(qemu: int, severity: str) -> None:
    lines = [line for line in report.judge(snapshot(libvirt={"qemu": qemu})) if line.check == "qemu"]
    assert [line.severity for line in lines] == [severity] * 2
    if severity == "warning":
        assert "only if its vendor added that; others do from 8.1.0 on" in lines[0].text


@pytest.mark.parametrize("version", [6_000_000, 8_005_000, 9_000_000, 10_000_000, 12_008_001])
def test_libvirt_is_not_judged_by_its_number(version: int) -> None:
    assert bad(snapshot(libvirt={"libvirt": version})) == []


def test_a_libvirt_that_is_known_to_crash() -> None:
    here, there = bad(snapshot(libvirt={"libvirt": 12_001_000}))
    assert (here.check, here.severity, there.side) == ("libvirt", "warning", "destination")
    assert "here: libvirt 12.1.0 crashes when an interface of a hostdev network is attached" in here.text
    assert bad(snapshot(libvirt={"libvirt": 12_002_000})) == []


def test_the_downtime_is_foretold_by_size_and_bandwidth() -> None:
    about = "about 8 MiB of device state are transferred while the guest is paused"
    two = snapshot(vfs=2)
    assert said(two, "downtime") == [f"{about}: 27 MiB/s keep the downtime limit of 300 ms"]
    slow = replace(two, bandwidth_mibs=100, downtime_ms=80)
    assert said(slow, "downtime") == [f"{about}: 80 ms at 100 MiB/s"]
    line = the(replace(slow, downtime_ms=79))
    assert (line.side, line.check, line.severity) == ("pair", "downtime", "warning")
    assert (
        line.text
        == f"{about}, which takes 80 ms at the bandwidth limit of 100 MiB/s, longer than the downtime limit "
        "of 79 ms"
    )
    assert line.remedy.endswith("virsh migrate-setmaxdowntime g MS")


@pytest.mark.parametrize("support", [None, replace(ALL, data_size=None)])
def test_without_a_size_no_downtime_is_foretold(support: Optional[MigrationSupport]) -> None:
    assert said(snapshot(here={"support": support}), "downtime") == []
