# SPDX-License-Identifier: GPL-2.0-or-later
"""Converging: from any state to the wanted one, in the kernel's order, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.fakes.rig import PF, Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.errors import HostError, Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import SwitchPort

DOMAIN = "22222222-2222-4222-8222-222222222222"
POOL = Pool("data", (PF,), "br-data", mtu=9000)


class VfRig(Rig):
    """The rig with one of its VFs, and claims on it."""

    @property
    def vf(self) -> PciAddress:
        return self.memory.vfs[1]

    def claim(self, **changes: object) -> Claim:
        claim = Claim(
            vf=self.vf,
            pool="data",
            domain=DOMAIN,
            domain_name="guest1",
            state=claim_store.PLUGGED,
            since=0.0,
            mac="52:54:00:00:00:02",
            vlan=42,
        )
        return self.store.put(replace(claim, **changes))  # type: ignore[arg-type]


MakeVfRig = Callable[..., VfRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeVfRig]:
    with ExitStack() as rigs:

        def make(pool: Pool = POOL, **more: Any) -> VfRig:
            return rigs.enter_context(VfRig(tmp_path, config=Config({"data": pool}), **more))

        yield make


@pytest.fixture
def rig(make_rig: MakeVfRig) -> VfRig:
    return make_rig()


def test_a_free_vf_becomes_migratable(rig: VfRig) -> None:
    assert rig.converger.converge(rig.vf) == [f"set migratable of {rig.vf}"]
    assert rig.memory.host.observe(rig.vf).migratable is True
    assert rig.converger.converge(rig.vf) == []


def test_a_claimed_vf_gets_everything_in_the_kernels_order(rig: VfRig) -> None:
    rig.memory.card.driver_override(str(rig.vf), "mlx5_core")
    rig.memory.card.drivers_probe(str(rig.vf))
    rig.claim()
    done = rig.converger.converge(rig.vf)
    name = rig.memory.host.observe(rig.vf).representor
    assert done == [
        f"unbound {rig.vf} from mlx5_core",
        f"set migratable of {rig.vf}",
        f"set MTU of {name} to 9000",
        f"brought {name} up",
        f"plugged {name} into br-data with tag 42",
    ]
    port = rig.memory.host.observe(rig.vf).switch_port
    assert port is not None
    assert (port.tag, port.external_ids["attached-mac"]) == (42, "52:54:00:00:00:02")
    assert port.external_ids["vm-id"] == DOMAIN


def test_a_vf_that_libvirt_does_not_manage_is_bound_after_the_flag_is_set(rig: VfRig) -> None:
    rig.claim(state=claim_store.PREPARED, managed=False)
    rig.converger.converge(rig.vf)
    function = rig.memory.card.function(str(rig.vf))
    assert (function.driver, function.migratable_at_bind) == ("mlx5_vfio_pci", True)


def test_the_mac_of_a_plain_hostdev_is_set_and_reset(rig: VfRig) -> None:
    claim = rig.claim(set_mac=True)
    rig.converger.converge(rig.vf)
    assert rig.memory.host.observe(rig.vf).hw_addr == "52:54:00:00:00:02"
    rig.store.release(claim)
    rig.converger.converge(rig.vf)
    assert rig.memory.host.observe(rig.vf).hw_addr == "00:00:00:00:00:00"


def left_by_libvirt(rig: VfRig, *, gone: bool = True, **changes: object) -> None:
    """A claim that is releasing, of a VF that libvirt has bound and given a MAC."""
    claim = rig.claim(**{"state": claim_store.PREPARED, "mac": "52:54:00:00:00:02", **changes})
    rig.converger.converge(rig.vf)
    rig.memory.sysfs.bind(rig.vf, "mlx5_vfio_pci")
    port = rig.memory.host.observe(rig.vf)
    assert port.port_index is not None
    rig.memory.devlink.set_port_function(PF, port.port_index, hw_addr="52:54:00:00:00:02")
    assert rig.store.release(claim, gone=gone) is not None


def test_the_driver_and_mac_that_libvirt_left_on_a_free_vf_are_removed(rig: VfRig) -> None:
    left_by_libvirt(rig)
    rig.memory.card.driver_override(str(rig.vf), "mlx5_vfio_pci")
    assert rig.converger.converge(rig.vf) == [
        f"reset driver_override of {rig.vf}",
        f"unbound {rig.vf} from mlx5_vfio_pci",
        f"set hw_addr of {rig.vf} to 00:00:00:00:00:00",
    ]
    assert rig.store.releasing(rig.vf) is None
    assert rig.converger.converge(rig.vf) == []


def test_a_vf_left_by_libvirt_is_bound_to_the_hosts_driver_where_free_vfs_is_host(
    make_rig: MakeVfRig,
) -> None:
    rig = make_rig(replace(POOL, free_vfs="host"))
    left_by_libvirt(rig, mac=None)
    rig.converger.converge(rig.vf)
    assert rig.memory.sysfs.driver(rig.vf) == rig.memory.sysfs.driver(rig.memory.pf)


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),  # libvirt may be at it
        ({"managed": False}, True),  # libvirt leaves such a VF bound
        ({"state": claim_store.RESERVED}, True),  # libvirt never had it
    ],
)
def test_a_binding_that_is_not_left_by_libvirt_stays(
    rig: VfRig, changes: dict[str, object], gone: bool
) -> None:
    left_by_libvirt(rig, gone=gone, **changes)
    rig.converger.converge(rig.vf)
    assert rig.memory.sysfs.driver(rig.vf) == "mlx5_vfio_pci"
    assert rig.store.releasing(rig.vf) is None


def test_a_vf_that_is_still_in_use_is_not_free_and_loses_its_port_only(rig: VfRig) -> None:
    claim = rig.claim(set_mac=True)
    rig.converger.converge(rig.vf)
    rig.memory.sysfs.bind(rig.vf, "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(rig.vf))
    rig.store.release(claim, gone=True)
    before = rig.memory.host.observe(rig.vf)
    with pytest.raises(HostError, match="being released by guest 'guest1', is still in use by a process"):
        rig.converger.converge(rig.vf)
    assert rig.memory.ovs.ports == {}
    assert rig.memory.host.observe(rig.vf) == replace(before, switch_port=None, link_up=False)
    rig.memory.sysfs.open_groups.clear()
    rig.converger.converge(rig.vf)
    assert rig.store.releasing(rig.vf) is None
    assert rig.memory.host.observe(rig.vf).hw_addr == "00:00:00:00:00:00"


def test_a_vf_that_vanished_with_its_claim_releasing_leaves_no_claim(rig: VfRig) -> None:
    rig.store.release(rig.claim(), gone=True)
    rig.memory.card.numvfs(str(PF), "0")
    assert rig.converger.converge(rig.vf) == []
    assert rig.store.releasing(rig.vf) is None


@pytest.mark.parametrize("free_vfs", ["ready", "host"])
def test_old_settings_of_a_free_vf_without_a_claim_are_removed(make_rig: MakeVfRig, free_vfs: str) -> None:
    """Libvirt binds the VF of a hostdev network, and sets its MAC, before a hook shows which one it chose."""
    rig = make_rig(replace(POOL, free_vfs=free_vfs))
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    clean = rig.memory.host.observe(rig.vf)
    rig.memory.sysfs.bind(rig.vf, "vfio-pci")
    rig.memory.card.driver_override(str(rig.vf), "vfio-pci")
    assert clean.port_index is not None
    rig.memory.devlink.set_port_function(PF, clean.port_index, hw_addr="52:54:00:00:00:02")
    assert rig.converger.survey(PF) == []
    rig.now += rig.config.claim_timeout - 1
    assert rig.converger.converge(rig.vf) == []
    rig.now += 1
    assert rig.converger.survey(PF) == [rig.vf]
    assert rig.converger.converge(rig.vf)[-1] == f"set hw_addr of {rig.vf} to 00:00:00:00:00:00"
    assert rig.memory.host.observe(rig.vf) == clean
    assert rig.memory.sysfs.driver_override(rig.vf) is None
    assert rig.converger.survey(PF) == []


@pytest.mark.parametrize("use", ["guest", "netdev", "claim"])
def test_settings_of_a_vf_in_use_stay(make_rig: MakeVfRig, use: str) -> None:
    rig = make_rig()
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    index = rig.memory.host.observe(rig.vf).port_index
    assert index is not None
    rig.memory.devlink.set_port_function(PF, index, hw_addr="52:54:00:00:00:02")
    rig.memory.sysfs.bind(rig.vf, "mlx5_core" if use == "netdev" else "vfio-pci")
    if use == "guest":
        rig.memory.sysfs.open_groups.add(str(rig.vf))
    elif use == "netdev":
        (name,) = rig.memory.sysfs.netdevs(rig.vf)
        link = rig.memory.links.find(name)
        assert link is not None
        rig.memory.links.set_up(link.index)
    else:
        rig.claim(state=claim_store.PREPARED)
    before = rig.memory.host.observe(rig.vf)
    for _ in range(3):
        rig.converger.survey(PF)
        assert rig.converger.converge(rig.vf) == []
        rig.now += rig.config.claim_timeout
    assert rig.memory.host.observe(rig.vf) == before


def test_settings_of_a_free_vf_that_still_change_stay(rig: VfRig) -> None:
    rig.converger.converge(rig.vf)
    index = rig.memory.host.observe(rig.vf).port_index
    assert index is not None
    for number in range(4):
        rig.memory.devlink.set_port_function(PF, index, hw_addr=f"52:54:00:00:00:0{number}")
        assert rig.converger.converge(rig.vf) == []
        rig.now += rig.config.claim_timeout - 1


def test_a_reserved_vf_is_as_clean_as_a_free_one(rig: VfRig) -> None:
    rig.converger.converge(rig.vf)
    index = rig.memory.host.observe(rig.vf).port_index
    assert index is not None
    rig.memory.devlink.set_port_function(PF, index, hw_addr="52:54:00:00:00:09")
    rig.memory.card.driver_override(str(rig.vf), "vfio-pci")
    rig.claim(state=claim_store.RESERVED)
    assert rig.converger.converge(rig.vf) == [
        f"reset driver_override of {rig.vf}",
        f"set hw_addr of {rig.vf} to 00:00:00:00:00:00",
    ]


def test_a_vf_that_libvirt_bound_before_it_was_migratable_is_bound_again_for_its_guest(rig: VfRig) -> None:
    """A VF of a hostdev network that no reconcile has made migratable: libvirt binds it before any hook shows it."""
    rig.memory.sysfs.bind(rig.vf, "mlx5_vfio_pci")
    rig.claim()
    assert rig.converger.converge(rig.vf)[:3] == [
        f"unbound {rig.vf} from mlx5_vfio_pci",
        f"set migratable of {rig.vf}",
        f"bound {rig.vf} to mlx5_vfio_pci",
    ]
    assert rig.memory.card.function(str(rig.vf)).migratable_at_bind


def test_a_card_that_refuses_no_mac_gets_libvirts_other_one(
    rig: VfRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = rig.memory.devlink.set_port_function

    def set_port_function(pf: PciAddress, index: int, **changes: Any) -> None:
        if changes.get("hw_addr") == "00:00:00:00:00:00":
            raise HostError("devlink: invalid MAC")
        refusing(pf, index, **changes)

    monkeypatch.setattr(rig.memory.devlink, "set_port_function", set_port_function)
    claim = rig.claim(set_mac=True)
    rig.converger.converge(rig.vf)
    rig.store.release(claim, gone=True)
    rig.converger.converge(rig.vf)
    assert rig.memory.host.observe(rig.vf).hw_addr == "02:00:00:00:00:00"
    assert rig.converger.converge(rig.vf) == []


def test_the_port_of_a_dropped_claim_is_removed(rig: VfRig) -> None:
    claim = rig.claim()
    rig.converger.converge(rig.vf)
    rig.store.drop(claim)
    rig.converger.converge(rig.vf)
    assert rig.memory.ovs.ports == {}
    assert not rig.memory.host.observe(rig.vf).link_up
    assert rig.converger.converge(rig.vf) == []


def test_an_administrators_port_is_left_alone(rig: VfRig) -> None:
    name = rig.memory.host.observe(rig.vf).representor
    assert name is not None
    theirs = SwitchPort(name, "br-other", None, (), {}, None, 1, None)
    rig.memory.ovs.ports[name] = theirs
    rig.memory.links.set_up(rig.memory.links.find(name).index)  # type: ignore[union-attr]
    rig.converger.converge(rig.vf)
    assert rig.memory.ovs.ports[name] == theirs
    assert rig.memory.host.observe(rig.vf).link_up


def test_a_running_guest_is_never_unbound(rig: VfRig) -> None:
    rig.memory.sysfs.bind(rig.vf, "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(rig.vf))
    rig.claim()
    with pytest.raises(HostError, match="is not migratable and a guest is using it; shut the guest down"):
        rig.converger.converge(rig.vf)
    assert rig.memory.sysfs.driver(rig.vf) == "mlx5_vfio_pci"


def test_a_vf_the_host_uses_itself_is_left_alone(rig: VfRig) -> None:
    rig.memory.card.driver_override(str(rig.vf), "mlx5_core")
    rig.memory.card.drivers_probe(str(rig.vf))
    (name,) = rig.memory.sysfs.netdevs(rig.vf)
    device = rig.memory.links.find(name)
    assert device is not None
    rig.memory.links.set_up(device.index)
    assert rig.converger.converge(rig.vf) == []
    assert rig.memory.sysfs.driver(rig.vf) == "mlx5_core"


def test_legacy_mode_is_an_error_with_a_remedy(rig: VfRig) -> None:
    rig.memory.card.set_eswitch_mode(str(PF), "legacy")
    rig.claim()
    with pytest.raises(HostError, match=r"has no representor.*mode switchdev"):
        rig.converger.converge(rig.vf)
    with pytest.raises(Refused, match="is not in switchdev mode, so VF"):
        rig.converger.check_ready(rig.vf)


def test_a_survey_lists_only_the_vfs_that_differ(rig: VfRig) -> None:
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    assert rig.converger.survey(PF) == []
    rig.claim()
    assert rig.converger.survey(PF) == [rig.vf]


def test_a_vf_of_no_pool_is_not_changed(tmp_path: Path) -> None:
    with Rig(tmp_path, config=Config({})) as rig:
        assert rig.converger.converge(rig.memory.vfs[0]) == []
        assert rig.converger.survey(rig.memory.pf) == []


def test_a_pool_for_the_engine_keeps_free_vfs_with_the_hosts_driver(make_rig: MakeVfRig) -> None:
    rig = make_rig(replace(POOL, free_vfs="host"))
    memory, store, converger = rig.memory, rig.store, rig.converger
    driver = memory.sysfs.driver(memory.pf)
    assert memory.sysfs.driver(rig.vf) is None
    assert converger.converge(rig.vf) == [f"bound {rig.vf} to the host's driver"]
    assert memory.sysfs.driver(rig.vf) == driver
    assert converger.converge(rig.vf) == []
    # vdsm detaches a VF a moment before it claims it
    memory.sysfs.bind(rig.vf, "vfio-pci")
    assert converger.converge(rig.vf) == []
    memory.sysfs.unbind(rig.vf)
    claim = rig.claim(strategy="replug", managed=False)
    converger.converge(rig.vf)
    assert memory.sysfs.is_vfio(memory.sysfs.driver(rig.vf))
    store.drop(claim)
    memory.sysfs.unbind(rig.vf)
    converger.converge(rig.vf)
    assert memory.sysfs.driver(rig.vf) == driver


@pytest.mark.parametrize(
    ("version", "managed", "prepared", "started"),
    [
        (11_003_000, True, "None", "mlx5_vfio_pci"),
        (10_000_000, True, "None", "mlx5_vfio_pci"),
        (9_009_000, True, "None", "mlx5_vfio_pci"),
        (9_000_000, True, "None", "mlx5_vfio_pci"),
        (11_003_000, False, "mlx5_vfio_pci", "mlx5_vfio_pci"),
        (9_007_000, False, "mlx5_vfio_pci", "mlx5_vfio_pci"),
        (9_006_000, False, "vfio-pci", "mlx5_vfio_pci"),
    ],
)
def test_a_vf_has_the_variant_driver_with_each_version_of_libvirt(
    make_rig: MakeVfRig, version: int, managed: bool, prepared: str, started: str
) -> None:
    """What libvirt binds between `prepare` and `start` is played by the test."""
    rig = make_rig(libvirt_version=version)
    memory, store, converger = rig.memory, rig.store, rig.converger
    claim = rig.claim(managed=managed, state=claim_store.PREPARED)
    converger.converge(rig.vf)
    assert str(memory.sysfs.driver(rig.vf)) == prepared
    if managed:
        by_libvirt = "mlx5_vfio_pci" if version >= 10_000_000 else "vfio-pci"
        memory.sysfs.bind(rig.vf, by_libvirt)
    store.change(claim, state=claim_store.PLUGGED)
    told = converger.converge(rig.vf)
    assert memory.sysfs.driver(rig.vf) == started
    assert (f"bound {rig.vf} to mlx5_vfio_pci" in told) == (
        version < 9_007_000 or (managed and version < 10_000_000)
    )
    assert memory.card.function(str(rig.vf)).migratable_at_bind


def test_what_libvirt_bound_decides_and_not_its_version(make_rig: MakeVfRig) -> None:
    """A libvirt of a number that chooses variant drivers elsewhere, and has bound vfio-pci all the same."""
    rig = make_rig(libvirt_version=10_000_000)
    claim = rig.claim(state=claim_store.PREPARED)
    rig.converger.converge(rig.vf)
    rig.memory.sysfs.bind(rig.vf, "vfio-pci")
    rig.store.change(claim, state=claim_store.PLUGGED)
    rig.converger.converge(rig.vf)
    assert rig.memory.sysfs.driver(rig.vf) == "mlx5_vfio_pci"


def test_the_driver_of_a_vf_in_use_is_not_changed(make_rig: MakeVfRig) -> None:
    """A guest that older libvirt gave vfio-pci, as when it plugged the VF in: it cannot migrate, and must live."""
    rig = make_rig(libvirt_version=9_000_000)
    memory, converger = rig.memory, rig.converger
    converger.converge(rig.vf)
    memory.sysfs.bind(rig.vf, "vfio-pci")
    memory.sysfs.open_groups.add(str(rig.vf))
    rig.claim()
    assert not any(text.startswith(("bound", "unbound")) for text in converger.converge(rig.vf))
    assert memory.sysfs.driver(rig.vf) == "vfio-pci"
