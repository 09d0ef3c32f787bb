# SPDX-License-Identifier: GPL-2.0-or-later
"""Each finding once, with what it says and what it tells to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vfmigrate.config.pool import Pool
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.rules import findings
from vfmigrate.rules.findings import ERROR, WARNING, Finding, PfObservation, Remedies

PF = PciAddress(0, 0xE1, 0, 0)
VF = PciAddress(0, 0xE1, 0, 2)
OTHER = PciAddress(0, 0xE1, 0, 3)
POOL = Pool("data", (PF,), "br-data", vfs=4, origin="/etc/vfmigrate/vfmigrate.conf")
REMEDIES = Remedies(
    sriov="run: more-vfs",
    driver="modprobe it",
    variant="install it",
    migration="enable it",
    eswitch="ask the Arm side",
    ethernet="set LINK_TYPE",
)
GOOD = PfObservation(
    PF,
    REMEDIES,
    driver="mlx5_core",
    totalvfs=8,
    numvfs=4,
    vfio_driver="mlx5_vfio_pci",
)


def test_a_good_pf_has_no_findings() -> None:
    assert findings.of_pf(POOL, GOOD) == []


@pytest.mark.parametrize(
    ("facts", "severity", "text", "remedy"),
    [
        (
            {"present": False},
            ERROR,
            "/etc/vfmigrate/vfmigrate.conf: [pool data] pf: there is no PCI device 0000:e1:00.0 on this host",
            "lspci -D",
        ),
        (
            {"sriov": False},
            ERROR,
            "[pool data] pf: PCI device 0000:e1:00.0 is not an SR-IOV",
            "name a PF, or run: more-vfs",
        ),
        (
            {"driver": None},
            ERROR,
            "PF 0000:e1:00.0 cannot be configured: it is bound to no driver",
            "modprobe it",
        ),
        (
            {"infiniband": True, "driver": None},
            ERROR,
            "PF 0000:e1:00.0 is an InfiniBand port, so its VFs cannot be connected to bridge br-data",
            "set LINK_TYPE",
        ),
        (
            {"refusal": "devlink: Operation not supported"},
            ERROR,
            "PF 0000:e1:00.0 cannot be configured: devlink: Operation not supported",
            "ask the Arm side",
        ),
        ({"devlink": False}, ERROR, "its driver mlx5_core has no devlink", "modprobe it"),
        ({"iommu": False}, ERROR, "PF 0000:e1:00.0 has no IOMMU", "intel_iommu=on"),
        (
            {"vfio_driver": "vfio-pci"},
            ERROR,
            "this kernel has no VFIO driver that can migrate the VFs of PF 0000:e1:00.0",
            "install it",
        ),
        (
            {"support": MigrationSupport("mlx5_vfio_pci")},
            ERROR,
            "the VFs of PF 0000:e1:00.0 cannot migrate: their driver mlx5_vfio_pci offers no migration",
            "enable it",
        ),
        (
            {"support": MigrationSupport("mlx5_vfio_pci", stop_copy=True)},
            WARNING,
            "the VFs of PF 0000:e1:00.0 do not log the memory that they write, so QEMU migrates them only if",
            "update mlx5_vfio_pci",
        ),
        (
            {"shared_groups": {VF: [OTHER]}},
            ERROR,
            "VF 0000:e1:00.2 shares its IOMMU group with 0000:e1:00.3",
            "ACS",
        ),
        (
            {"totalvfs": 2},
            ERROR,
            "[pool data] vfs: 4 VFs are configured, but the firmware of PF 0000:e1:00.0 allows 2",
            "run: more-vfs",
        ),
    ],
)
def test_each_fault_of_a_pf_has_a_finding_with_a_remedy(
    facts: dict[str, Any], severity: str, text: str, remedy: str
) -> None:
    (finding,) = findings.of_pf(POOL, replace(GOOD, **facts))
    assert finding.severity == severity
    assert text in finding.text
    assert remedy in finding.remedy


def test_a_driver_that_can_migrate_is_no_finding() -> None:
    support = MigrationSupport("mlx5_vfio_pci", stop_copy=True, dma_logging=True)
    assert findings.of_pf(POOL, replace(GOOD, support=support)) == []


def test_what_the_vendor_knows_of_a_card_that_cannot_migrate_is_the_one_finding() -> None:
    of_card = [Finding(ERROR, "its firmware is too old", "update it")]
    facts = replace(GOOD, support=MigrationSupport("mlx5_vfio_pci"), of_card=of_card)
    assert findings.of_pf(POOL, facts) == of_card


def test_a_pf_without_vfs_is_a_warning() -> None:
    (finding,) = findings.of_pf(replace(POOL, vfs=None), replace(GOOD, numvfs=0))
    assert (finding.severity, "has no VFs" in finding.text) == (WARNING, True)


def test_errors_come_first() -> None:
    of_card = [Finding(WARNING, "it is odd")]
    found = findings.of_pf(POOL, replace(GOOD, of_card=of_card, iommu=False))
    assert [finding.severity for finding in found] == [ERROR, WARNING]


def test_two_uplinks_in_one_bridge_make_a_loop() -> None:
    two = replace(POOL, pfs=(PF, OTHER))
    (finding,) = findings.of_bridge(two, [two])
    assert (
        "[pool data] uplink: bridge br-data would get 2 uplinks, 0000:e1:00.0, 0000:e1:00.3, which makes a loop"
        in finding.text
    )
    assert findings.of_bridge(replace(two, uplink="bond0"), [replace(two, uplink="bond0")]) == []
    assert findings.of_bridge(POOL, [POOL, replace(POOL, name="more", pfs=(OTHER,), bridge="br-more")]) == []
    assert findings.of_bridge(POOL, [POOL, replace(POOL, name="more", pfs=(OTHER,), uplink="none")]) == []


def test_a_bridge_of_the_userspace_datapath_is_a_warning() -> None:
    (finding,) = findings.of_traffic(POOL, "netdev", {"p0": 1500})
    assert finding.severity == WARNING
    assert "bridge br-data has the userspace datapath (datapath_type=netdev, as with DPDK)" in finding.text
    assert finding.remedy.endswith("ovs-vsctl set bridge br-data datapath_type=system")
    assert findings.of_traffic(POOL, "system", {"p0": 1500}) == []
    assert findings.of_traffic(POOL, None, {}) == []


def test_an_uplink_with_a_smaller_mtu_than_the_pool_is_a_warning() -> None:
    pool = replace(POOL, mtu=9000)
    (finding,) = findings.of_traffic(pool, "system", {"p0": 1500, "p1": 9000, "p2": 9216})
    assert finding.severity == WARNING
    assert finding.text == (
        "uplink p0 of pool 'data' has MTU 1500, and the pool 9000: larger frames of guests are dropped"
    )
    assert finding.remedy == "run: ip link set p0 mtu 9000; or lower mtu in section [pool data]"
