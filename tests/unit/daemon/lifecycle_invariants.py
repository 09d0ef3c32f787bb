# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of the host of `lifecycle_world`, whatever happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from tests.fakes.hardware import Function
from vfmigrate.claims.claim_store import PLUGGED
from vfmigrate.domain import domain_xml
from vfmigrate.model.mac import NO_MAC
from vfmigrate.model.pci import PciAddress

if TYPE_CHECKING:
    from tests.unit.daemon.lifecycle_world import World

VARIANT = "mlx5_vfio_pci"
_OTHER_PF = PciAddress(0, 1, 0, 1)


class Invariants:
    """Looks at the daemon's claims, at the host and at the guests, and changes none of them."""

    def __init__(self, world: World) -> None:
        """Before the daemon starts: the VFs of no pool are given something that it could wrongly remove."""
        self._world = world
        self._touch_others()
        self._others = self._outside()

    def check_always(self) -> None:
        """What holds at every moment: guests keep their VFs as libvirt made them, and others' VFs are not touched."""
        held = [vf for one in self._world.running.values() for vf in one.vfs]
        assert len(held) == len(set(held)), "a VF has two guests"
        for one in self._world.running.values():
            for interface in domain_xml.read(one.xml).interfaces:
                vf = interface.address
                assert vf is not None
                assert self._world.host.sysfs.driver(vf) == VARIANT, f"{vf} was taken from its guest"
                assert self._world.port(vf).hw_addr == interface.wanted_mac, f"{vf} lost its guest's MAC"
        for vf in self._world.lingering:
            assert self._world.host.sysfs.driver(vf) == VARIANT, (
                f"{vf} was taken from a QEMU that has not ended"
            )
        for vf in self._world.hosts_own:
            assert self._world.host.sysfs.driver(vf) == self._world.host.card.hardware.host_driver, (
                f"{vf} is the host's own"
            )
        assert self._outside() == self._others, "something outside the pools was changed"

    def check_reconciled(self) -> None:
        """What holds after a reconcile of a host where all works: ports, claims and free VFs agree with the guests."""
        assert self._world.daemon is not None
        store = self._world.daemon.store
        assert store.all_releasing() == []
        claims = {claim.vf: claim for claim in store.all()}
        assert {path.stem for path in self._world.files.directory.glob("*.json")} == {
            str(vf) for vf in claims
        }
        ports = {port.owner: port for port in self._world.host.ovs.owned_ports()}
        assert set(ports) == {claim.id for claim in claims.values() if claim.state == PLUGGED}
        for one in self._world.running.values():
            for vf in one.vfs:
                assert ports[claims[vf].id].tag == 42
        for vf in self._world.vfs:
            if vf not in claims and vf not in self._world.touched | self._world.hosts_own:
                self._check_free(vf)

    def check_settled(self) -> None:
        """What holds when reservations have expired and left-overs are old: only running guests have claims."""
        self._world.touched.clear()
        self.check_reconciled()
        assert self._world.daemon is not None
        held = {vf for one in self._world.running.values() for vf in one.vfs}
        assert {claim.vf for claim in self._world.daemon.store.all()} == held

    def _check_free(self, vf: PciAddress) -> None:
        state = self._world.host.host.observe(vf)
        override = self._world.host.sysfs.driver_override(vf)
        assert (state.hw_addr, override) == (NO_MAC, None), f"something is left on {vf}"
        assert state.driver in (None, VARIANT), f"{vf} is bound to {state.driver}"
        assert (state.link_up, state.switch_port) == (False, None), f"the port of {vf} is left"
        assert state.migratable

    def _touch_others(self) -> None:
        """The VFs of no pool look like what would be removed from those of a pool."""
        for index, vf in enumerate(self._world.host.sysfs.vfs(_OTHER_PF)):
            port = self._world.host.devlink.vf_ports(_OTHER_PF)[index].index
            self._world.host.devlink.set_port_function(_OTHER_PF, port, hw_addr=f"52:54:00:88:88:0{index}")
            self._world.host.sysfs.bind(vf, "vfio-pci")
            self._world.host.card.driver_override(str(vf), "vfio-pci")

    def _outside(self) -> list[tuple[Function, Optional[str]]]:
        ports = self._world.host.devlink.vf_ports(_OTHER_PF)
        return [
            (self._world.host.card.function(str(vf)), ports[index].hw_addr)
            for index, vf in enumerate(self._world.host.sysfs.vfs(_OTHER_PF))
        ]
