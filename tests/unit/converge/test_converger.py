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
    rig.store.drop(claim)
    rig.converger.converge(rig.vf, after=claim)
    assert rig.memory.host.observe(rig.vf).hw_addr == "00:00:00:00:00:00"


def left_by_libvirt(rig: VfRig, **changes: object) -> Claim:
    """A claim that was dropped, of a VF that libvirt has bound and given a MAC."""
    claim = rig.claim(**{"state": claim_store.PREPARED, "mac": "52:54:00:00:00:02", **changes})
    rig.converger.converge(rig.vf)
    rig.memory.sysfs.bind(rig.vf, "mlx5_vfio_pci")
    port = rig.memory.host.observe(rig.vf)
    assert port.port_index is not None
    rig.memory.devlink.set_port_function(PF, port.port_index, hw_addr="52:54:00:00:00:02")
    rig.store.drop(claim)
    return claim


def test_the_driver_and_mac_that_libvirt_left_on_a_free_vf_are_removed(rig: VfRig) -> None:
    claim = left_by_libvirt(rig)
    assert rig.converger.converge(rig.vf, after=claim, gone=True) == [
        f"unbound {rig.vf} from mlx5_vfio_pci",
        f"set hw_addr of {rig.vf} to 00:00:00:00:00:00",
    ]
    assert rig.converger.converge(rig.vf, after=claim, gone=True) == []


def test_a_vf_left_by_libvirt_is_bound_to_the_hosts_driver_where_free_vfs_is_host(
    make_rig: MakeVfRig,
) -> None:
    rig = make_rig(replace(POOL, free_vfs="host"))
    claim = left_by_libvirt(rig, mac=None)
    rig.converger.converge(rig.vf, after=claim, gone=True)
    assert rig.memory.sysfs.driver(rig.vf) == rig.memory.sysfs.driver(rig.memory.pf)


@pytest.mark.parametrize(
    ("changes", "gone", "held"),
    [
        ({}, False, False),  # libvirt may be at it
        ({}, True, True),  # a process has it
        ({"managed": False}, True, False),  # libvirt leaves such a VF bound
        ({"state": claim_store.RESERVED}, True, False),  # libvirt never had it
    ],
)
def test_a_binding_that_is_not_left_by_libvirt_stays(
    rig: VfRig, changes: dict[str, object], gone: bool, held: bool
) -> None:
    claim = left_by_libvirt(rig, **changes)
    if held:
        rig.memory.sysfs.open_groups.add(str(rig.vf))
    rig.converger.converge(rig.vf, after=claim, gone=gone)
    assert rig.memory.sysfs.driver(rig.vf) == "mlx5_vfio_pci"


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
