# SPDX-License-Identifier: GPL-2.0-or-later
"""What scenarios expect of the hosts: each function looks at the hosts, and fails with what is wrong."""

from __future__ import annotations

from tests.testbed import fabric, facts
from tests.testbed.guest import Guest
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration

VARIANT_DRIVER = "igb_vfio_pci"


class ScenarioError(Exception):
    """Something on the hosts is not as the scenario expects."""


def that(condition: object, why: str) -> None:
    """Fail with `why` unless the condition holds."""
    if not condition:
        raise ScenarioError(why)


def migrated(migration: Migration, guest: Guest) -> None:
    """Expect virsh to have succeeded."""
    told = " ".join(migration.result.stderr.split())
    that(migration.result.status == 0, f"virsh migrate of {guest.name} failed: {told}")


def moved(lab: Lab, guest: Guest, source: Host, destination: Host) -> None:
    """Expect the guest on the destination, alive, and not on the source."""
    where = lab.where(guest)
    that(destination in where, f"{guest.name} does not run on {destination.hostname}")
    that(source not in where, f"{guest.name} still runs on {source.hostname}")
    lab.await_life(guest)


def plugged(lab: Lab, guest: Guest, host: Host) -> dict[str, facts.Vf]:
    """Expect each VF of the guest to be set up on the host where it runs; returns the VFs by MAC.

    That is: bound to the variant driver, migratable, its representor up and in the bridge with the right tag.
    """
    addresses = lab.vf_addresses(guest, host)
    seen = facts.look(host)
    found = {}
    for nic in guest.vf_nics:
        that(nic.mac in addresses, f"{guest.name} has no VF with MAC {nic.mac} on {host.hostname}")
        vf = seen.vfs[addresses[nic.mac]]
        where = f"{vf.address} on {host.hostname}"
        that(vf.driver == VARIANT_DRIVER, f"{where} is bound to {vf.driver}, not to {VARIANT_DRIVER}")
        that(vf.migratable, f"{where} is not migratable")
        that(vf.mac == nic.mac, f"{where} has MAC {vf.mac}, not {nic.mac}")
        that(vf.representor in seen.links_up, f"{where}: its representor {vf.representor} is down")
        that(
            vf.representor in seen.ports,
            f"{where}: its representor {vf.representor} is not a port of the bridge",
        )
        tag = seen.ports[vf.representor]
        that(tag == nic.vlan, f"{where}: port {vf.representor} has tag {tag}, not {nic.vlan}")
        found[nic.mac] = vf
    return found


def learned(guest: Guest, host: Host) -> None:
    """Expect the switch to have learned the guest's MACs at the host's port."""
    for nic in guest.nics:
        port = fabric.learned_port(nic.mac, nic.vlan)
        wanted = fabric.host_ports(host.name).uplink
        that(port == wanted, f"the switch has {nic.mac} at {port}, not at {wanted}")
