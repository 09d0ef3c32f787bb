# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory that is not provisioned yet, for the tests of provisioning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, cast

from tests.fakes.card import LEGACY, Card
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import PF, Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.host.udev import Udev
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.provision.device_query import DeviceQuery
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.provisioner import Provisioner

POOL = Pool("data", (PF,), "br-data", vfs=4, origin="/etc/vfmigrate/vfmigrate.conf")


class ProvisionRig(Rig):
    """A host whose card is as it comes: no VFs, legacy mode; and a switch that has never been configured."""

    def __init__(self, place: Path, **hardware: Any) -> None:
        card = Card((str(PF),), hardware=Hardware(**hardware))
        super().__init__(place, MemoryHost(card=card))
        card.numvfs(str(PF), "0")
        card.set_eswitch_mode(str(PF), LEGACY)
        card.autoprobe(str(PF), "1")
        card.trace.clear()
        self.memory.ovs.bridges.clear()
        self.card = card
        self.libvirt = MemoryNetworks()
        self.udev = Udev(place / "udev", place / "owned")
        self.restarted: list[str] = []
        self.query = DeviceQuery(self.services)
        self.pid_file = place / "vswitchd.pid"
        self.proc = place / "proc"
        self.run_switch(100)
        self.offload = HardwareOffload(
            self.restart, note=place / "note", pid_file=self.pid_file, proc=self.proc
        )

    def run_switch(self, pid: int) -> None:
        (self.proc / str(pid)).mkdir(parents=True)
        words = [str(pid), "(ovs vswitchd)", *map(str, range(3, 30))]
        (self.proc / str(pid) / "stat").write_text(" ".join(words))
        self.pid_file.write_text(f"{pid}\n")

    def restart(self, unit: str) -> None:
        self.restarted.append(unit)
        self.run_switch(101)

    def provisioner(self, *pools: Pool) -> Provisioner:
        config = Config({pool.name: pool for pool in pools or (POOL,)})
        return Provisioner(
            replace(self.services, config=config),
            Networks(config, self.memory.host, self.store, cast(Any, self.libvirt)),
            udev=self.udev,
            offload=self.offload,
            query=self.query,
        )

    def provision(self, pool: Pool = POOL, **options: Any) -> dict[str, Any]:
        (outcome,) = self.provisioner(pool).provision(**options)["pools"]
        return cast("dict[str, Any]", outcome)

    def claim(self, index: int, **changes: Any) -> Claim:
        vf = self.memory.sysfs.vfs(PF)[index]
        claim = Claim(vf, "data", "22222222-2222-4222-8222-222222222222", "guest1", claim_store.PLUGGED, 0.0)
        return self.store.put(replace(claim, **changes))


def provisioner_of(rig: Rig, pool: Pool) -> Provisioner:
    """Provisions one pool of any rig."""
    config = Config({pool.name: pool})
    return Provisioner(
        replace(rig.services, config=config),
        Networks(config, rig.memory.host, rig.store, cast(Any, MemoryNetworks())),
        udev=Udev(rig.directory / "udev", rig.directory / "owned"),
        offload=HardwareOffload(lambda _unit: None, note=rig.directory / "note"),
        query=DeviceQuery(rig.services),
    )


MakeProvisionRig = Callable[..., ProvisionRig]


def texts(outcome: dict[str, Any]) -> list[str]:
    """What was found, in words."""
    return [finding["text"] for finding in outcome["findings"]]
