# SPDX-License-Identifier: GPL-2.0-or-later
"""`status-127-vfs`: the status of a host whose 127 VFs all belong to guests, from a daemon that has answered before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from tests.bench.crowded_host import crowded_host
from tests.bench.measure import Result, Turn, repeated
from vfmigrate.daemon.observation import Observer
from vfmigrate.daemon.status import Status
from vfmigrate.host.udev import Udev
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.provision.device_query import DeviceQuery
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.provisioner import Provisioner
from vfmigrate.reservations.migration_slots import MigrationSlots

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor

VFS = 127
ROUNDS = 10
AIM_MS = 50.0


def results() -> list[Result]:
    """Measure."""
    with status() as ready:
        found = ready.collect()
        (pool,) = found["pools"]
        if len(pool["pfs"][0]["vfs"]) != VFS or len(found["claims"]) != VFS:
            raise RuntimeError("the status does not have all VFs")
        runs = repeated({"status": Turn(ready.collect)}, ROUNDS)
    times = [each["status"] * 1000 for each in runs]
    return [Result(f"status-{VFS}-vfs", times, AIM_MS, "the clock", unit="ms")]


@contextmanager
def status() -> Iterator[Status]:
    """The status of such a host."""
    with crowded_host(1, VFS, claimed=True) as crowded:
        services = crowded.services
        offload = HardwareOffload(lambda _unit: None)
        networks = Networks(
            services.config,
            services.host,
            services.store,
            cast("Hypervisor", None),  # status calls no libvirt
        )
        query = DeviceQuery(services)
        provisioner = Provisioner(services, networks, udev=Udev(), offload=offload, query=query)
        slots = MigrationSlots(services.config, services.host, services.store)
        yield Status(services, Observer(services, offload, provisioner.check, query.known), slots)
