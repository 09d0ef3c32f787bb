# SPDX-License-Identifier: GPL-2.0-or-later
"""The VFs, MSI-X vectors and eswitch of a PF that is provisioned: set as configured, and never under a guest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.card import LEGACY, SWITCHDEV, Card
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, Rig
from tests.unit.provision.provision_rig import POOL, MakeProvisionRig, ProvisionRig, provisioner_of, texts
from vfmigrate.cards.mlx5 import Mlx5
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.registry import Vendors
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.errors import Refused
from vfmigrate.host.links import Link
from vfmigrate.model.pci import PciAddress


def test_another_number_of_vfs_is_set_by_way_of_0(rig: ProvisionRig) -> None:
    rig.provision()
    outcome = rig.provision(replace(POOL, vfs=2))
    assert outcome["changes"] == [
        "removed the 4 VFs of PF 0000:01:00.0",
        "created 2 VFs on PF 0000:01:00.0",
        "set migratable of the 2 VFs of PF 0000:01:00.0",
        "defined libvirt network vfmigrate-data with 2 VFs",
        "restarted libvirt network vfmigrate-data",
    ]


def test_vfs_of_a_card_in_legacy_mode_are_kept(rig: ProvisionRig) -> None:
    rig.card.numvfs(str(PF), "3")  # autoprobe is on: the host's driver takes them
    outcome = rig.provision(replace(POOL, vfs=None))
    assert outcome["error"] is None
    assert outcome["changes"][1:6] == [
        "unbound 0000:01:00.2 from mlx5_core",
        "unbound 0000:01:00.3 from mlx5_core",
        "unbound 0000:01:00.4 from mlx5_core",
        "set the eswitch of PF 0000:01:00.0 to switchdev (its link goes down meanwhile)",
        "set migratable of the 3 VFs of PF 0000:01:00.0",
    ]


def test_vfs_get_the_msix_count_of_the_pool(rig: ProvisionRig) -> None:
    pool = replace(POOL, msix=17)
    assert "gave the 4 VFs of PF 0000:01:00.0 17 MSI-X vectors each" in rig.provision(pool)["changes"]
    assert {rig.memory.sysfs.msix_count(vf) for vf in rig.memory.sysfs.vfs(PF)} == {17}
    claim = rig.claim(0)
    outcome = rig.provision(replace(POOL, msix=9))
    assert len([text for text in outcome["changes"] if text.endswith("9 MSI-X vectors")]) == 3
    assert (
        f"VF {claim.vf} keeps its 17 MSI-X vectors (configured: 9) while it is held by guest 'guest1'"
        in texts(outcome)
    )


def test_msix_on_a_card_without_msix_counts_is_an_error(make_rig: MakeProvisionRig) -> None:
    outcome = make_rig(vf_msix_pool=0).provision(replace(POOL, msix=17))
    assert "MSI-X of 0000:01:00.2" in outcome["error"]["problem"]


def test_vfs_of_a_running_guest_are_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    claim = rig.claim(1)
    done = len(rig.card.trace)
    outcome = rig.provision(replace(POOL, vfs=8))
    assert outcome["error"] == {
        "kind": "refused",
        "problem": "pool 'data' needs to change sriov_numvfs of PF 0000:01:00.0 from 4 to 8, which removes all VFs of "
        f"the PF: VF {claim.vf} is held by guest 'guest1'",
        "remedy": "migrate these guests to another host, then run vfmigrate provision again",
    }
    assert len(rig.card.trace) == done


def test_vfs_that_a_process_or_the_host_uses_are_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    held, hosts_own = rig.memory.sysfs.vfs(PF)[:2]
    rig.memory.sysfs.bind(held, "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(held))
    rig.memory.sysfs.bind(hosts_own, "mlx5_core")
    (name,) = rig.memory.sysfs.netdevs(hosts_own)
    link = rig.memory.links.find(name)
    assert link is not None
    rig.memory.links.set_up(link.index)
    problem = rig.provision(replace(POOL, vfs=8))["error"]["problem"]
    assert f"VF {held} is held by process 4711, VF {hosts_own} is in use by this host as {name}" in problem
    assert rig.provision()["changes"] == []  # and neither is touched otherwise


def test_a_vf_in_a_container_is_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    vf = rig.memory.sysfs.vfs(PF)[1]
    rig.memory.sysfs.bind(vf, "mlx5_core")
    rig.memory.sysfs.in_containers.add(str(vf))
    done = len(rig.card.trace)
    problem = rig.provision(replace(POOL, vfs=8))["error"]["problem"]
    assert f"VF {vf} is in use through driver mlx5_core, and its network device is not in this" in problem
    assert rig.provision(replace(POOL, msix=20))["changes"] == [
        text.format(each)
        for each in rig.memory.sysfs.vfs(PF)
        if each != vf
        for text in ("gave {} 20 MSI-X vectors",)
    ]
    assert ("unbind", "mlx5_core", str(vf)) not in rig.card.trace[done:]
    assert rig.memory.sysfs.driver(vf) == "mlx5_core"


def test_a_vf_that_the_host_has_by_the_pools_own_wish_is_taken_away_unless_it_is_configured(
    rig: ProvisionRig,
) -> None:
    pool = replace(POOL, free_vfs="host")
    rig.provision(pool)
    vf = rig.memory.sysfs.vfs(PF)[0]
    (name,) = rig.memory.sysfs.netdevs(vf)
    link = rig.memory.links.find(name)
    assert link is not None
    rig.memory.links.set_up(link.index)
    rig.memory.links.ip_addresses = {link.index: ["192.0.2.1/24"]}
    problem = rig.provision(replace(pool, vfs=8))["error"]["problem"]
    assert f"VF {vf} is in use by this host as {name} (192.0.2.1/24)" in problem
    rig.memory.links.ip_addresses.clear()
    assert "created 8 VFs on PF 0000:01:00.0" in rig.provision(replace(pool, vfs=8))["changes"]


@pytest.mark.parametrize("after", [0.0, 11.0])
def test_an_expired_claim_keeps_no_vfs_from_being_made_again(rig: ProvisionRig, after: float) -> None:
    rig.provision()
    rig.claim(0, expires=rig.now + 10)
    rig.now += after
    outcome = rig.provision(replace(POOL, vfs=8))
    assert (outcome["error"] is None) == (after > 10)


def test_the_eswitch_is_not_changed_under_a_guest(rig: ProvisionRig) -> None:
    rig.provision()
    rig.claim(0)
    rig.card.set_eswitch_mode(str(PF), LEGACY)
    error = rig.provision()["error"]
    assert error["kind"] == "refused"
    assert "change the eswitch of PF 0000:01:00.0 from legacy to switchdev" in error["problem"]
    assert "'guest1'" in error["problem"]


def test_no_vf_can_be_claimed_while_its_pf_is_provisioned(rig: ProvisionRig) -> None:
    rig.provision()
    refused = []

    def claim_now(_pf: PciAddress, _count: int) -> None:
        with pytest.raises(Refused, match="its PF is being provisioned") as error:
            rig.claim(0)
        refused.append(error)
        raise error.value

    rig.memory.sysfs.set_numvfs = claim_now  # type: ignore[method-assign,assignment]  # the moment in between
    assert rig.provision(replace(POOL, vfs=8))["error"]["kind"] == "refused"
    assert len(refused) == 1
    rig.claim(0)  # and afterwards it can be


def test_a_busy_eswitch_is_an_error(rig: ProvisionRig) -> None:
    rig.card.occupy_eswitch(str(PF), 1)
    assert "E-Switch is busy" in rig.provision()["error"]["problem"]


def test_a_card_whose_eswitch_another_processor_manages(tmp_path: Path) -> None:
    card = Card((str(PF),))
    with Rig(tmp_path, MemoryHost(card=card)) as rig:
        card.hardware = replace(card.hardware, eswitch_manager=False)
        provisioner = provisioner_of(rig, POOL)
        (outcome,) = provisioner.provision(["data"])["pools"]
        (finding,) = outcome["findings"]
        assert finding["text"] == (
            "PF 0000:01:00.0 cannot be configured: devlink: cannot read the eswitch mode of PF 0000:01:00.0: "
            "Operation not supported"
        )
        assert "BlueField in DPU mode" in finding["remedy"]
        assert outcome["error"]["problem"].endswith(finding["text"])


def test_an_infiniband_port_is_an_error(make_rig: MakeProvisionRig) -> None:
    rig = make_rig(pci_class="0x020700")
    outcome = rig.provision()
    (finding,) = outcome["findings"]
    assert finding["text"] == (
        "PF 0000:01:00.0 is an InfiniBand port, so its VFs cannot be connected to bridge br-data"
    )
    assert finding["remedy"] == (
        "run: mstconfig -d 0000:01:00.0 set LINK_TYPE_P1=2; then mstfwreset -d 0000:01:00.0 reset"
    )
    assert rig.card.trace == []


def test_a_kernel_that_is_locked_down_is_reported_once(tmp_path: Path) -> None:
    second = PciAddress(0, 1, 0, 1)
    lockdown, failing = tmp_path / "lockdown", tmp_path / "mstconfig"
    lockdown.write_text("none [integrity] confidentiality\n")
    failing.write_text("#!/bin/sh\necho '-E- Failed to open the device' >&2\nexit 1\n")
    failing.chmod(0o755)
    vendors = Vendors([Mlx5(FirmwareSettings(tools=(str(failing),), lockdown=lockdown))])
    with Rig(tmp_path, MemoryHost(card=Card((str(PF), str(second))), vendors=vendors)) as rig:
        pool = replace(POOL, pfs=(PF, second), uplink="none")
        provisioner = provisioner_of(rig, pool)
        found = [finding.text for finding in provisioner.check(pool, ask_tool=True)]
        assert [text for text in found if "locked down" in text] == [
            "the kernel is locked down (integrity; Secure Boot), so mstconfig cannot read VF_MIGRATION_MODE of any card"
        ]


def test_a_mode_change_that_would_break_a_bond_with_guests_is_refused(tmp_path: Path) -> None:
    second = PciAddress(0, 1, 0, 1)
    card = Card((str(PF), str(second)))
    with Rig(tmp_path, MemoryHost(card=card)) as rig:
        rig.memory.links.links[77] = Link(77, "bond0", True, 1500, "02:00:00:00:00:01")
        for pf in (PF, second):
            (port,) = [port for port in rig.memory.devlink.ports(pf) if port.flavour == "physical"]
            assert port.ifindex is not None
            link = rig.memory.links.link(port.ifindex)
            rig.memory.links.links[link.index] = replace(link, master=77)
        pool = replace(POOL, pfs=(PF, second), uplink="bond0")
        provisioner = provisioner_of(rig, pool)
        vf = rig.memory.sysfs.vfs(PF)[0]
        uuid = "22222222-2222-4222-8222-222222222222"
        claim = rig.store.put(Claim(vf, "data", uuid, "guest1", claim_store.PLUGGED, 0.0))
        card.trace.clear()
        (refused,) = provisioner.provision(["data"])["pools"]
        assert refused["error"]["problem"] == (
            "changing the eswitch of PF 0000:01:00.1 to switchdev would break bond0, to which guests are connected: "
            f"VF {vf} of PF 0000:01:00.0 is held by guest 'guest1'"
        )
        assert card.trace == []
        rig.store.drop(claim)
        (outcome,) = provisioner.provision(["data"])["pools"]
        assert outcome["error"] is None
        assert card.eswitch_mode(str(second)) == SWITCHDEV
        (warning,) = [text for text in texts(outcome) if "is a port of bond0 already" in text]
        assert warning.endswith("at the next boot: systemctl enable vfmigrate-early.service")
