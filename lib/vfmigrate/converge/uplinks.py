# SPDX-License-Identifier: GPL-2.0-or-later
"""The network devices by which the bridge of a pool reaches the network."""

from __future__ import annotations

from vfmigrate.config.pool import NONE, UPLINK_OF_PF, Pool
from vfmigrate.converge.observe import Host
from vfmigrate.errors import HostError
from vfmigrate.host.links import Link
from vfmigrate.model.pci import PciAddress


def devices(host: Host, pool: Pool) -> list[Link]:
    """The uplinks of a pool. Raises HostError for one that is not there."""
    if pool.uplink == NONE:
        return []
    if pool.uplink != UPLINK_OF_PF:
        return [_named(host, pool)]
    return [physical_port(host, address) for address in pool.pfs]


def of_pf(host: Host, pool: Pool, address: PciAddress) -> Link:
    """The uplink for the VFs of one PF of a pool that has uplinks. Raises HostError."""
    return _named(host, pool) if pool.uplink != UPLINK_OF_PF else physical_port(host, address)


def is_complete(host: Host, pool: Pool) -> bool:
    """Whether the uplink that a pool names is there and, if it is a bond, has the ports of the pool's PFs."""
    link = host.links.find(pool.uplink)
    if link is None or link.kind != "bond":
        return link is not None
    return all(physical_port(host, address).master == link.index for address in pool.pfs)


def _named(host: Host, pool: Pool) -> Link:
    link = host.links.find(pool.uplink)
    if link is None:
        problem = f"{pool.origin}: [pool {pool.name}] uplink: there is no network device {pool.uplink}"
        raise HostError(problem, "see ip link")
    return link


def physical_port(host: Host, address: PciAddress) -> Link:
    """The network device of a PF's physical port. Raises HostError."""
    for port in host.devlink.ports(address):
        if port.flavour == "physical" and port.ifindex is not None:
            return host.links.link(port.ifindex)
    raise HostError(
        f"PF {address} has no network device of its physical port",
        "see devlink port show, or name an uplink in the pool's section",
    )
