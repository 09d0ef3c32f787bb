# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of the previous Debian release, whose libvirt knows no variant drivers, and one of the current release.

Whichever libvirt prepares a VF, QEMU gets it with the driver that can migrate it.
"""

from __future__ import annotations

import pytest

from tests.integration import roots
from tests.integration.guests import Guest, Vf
from tests.integration.pair import Node, Pair, pair_of_module, reset_and_ready
from tests.integration.test_migration import MAC, vfs_of
from tests.testbed.releases import BOOKWORM, TRIXIE
from tests.testbed.root import host_root
from vfmigrate.rules import driver_binding

pytestmark = pytest.mark.hosts

MACHINE = roots.machine(BOOKWORM, TRIXIE)


_mixed = pair_of_module(lambda: host_root(TRIXIE), first=lambda: host_root(BOOKWORM))


@pytest.fixture
def mixed(_mixed: Pair) -> Pair:
    """An older and a newer host with vfmigrate running and its pools ready."""
    return reset_and_ready(_mixed)


def libvirt_version(node: Node) -> int:
    """The version of a host's libvirt as a number."""
    words = node.host.run("virsh", "version", "--daemon").stdout.split("Running against daemon:")[1].split()
    major, minor, release = (int(part) for part in words[0].split("."))
    return major * 1_000_000 + minor * 1_000 + release


def test_the_libvirt_versions_are_before_and_after_10(mixed: Pair) -> None:
    assert libvirt_version(mixed.a) < driver_binding.KNOWS_VARIANTS
    # the first that chooses a variant driver itself (virPCIDeviceFindBestVFIOVariant)
    assert libvirt_version(mixed.b) >= 10_000_000


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("form", ["interface", "hostdev"])
def test_an_older_libvirts_guest_runs_with_the_variant_driver_and_migrates(
    mixed: Pair, form: str, managed: bool
) -> None:
    a, b = mixed.a, mixed.b
    vf = Vf(a.vf(1), MAC, vlan=42, form=form, managed=managed)
    a.start_guest(Guest("g", [vf], machine=MACHINE))
    a.wait_until_settled()
    function = a.card.function(a.vf(1))
    assert (function.driver, function.migratable_at_bind) == ("mlx5_vfio_pci", True)
    assert a.switch_ports()[a.representor(1)].tag == 42

    outcome = a.migrate("g", b)

    assert outcome.status == 0, outcome.error
    (there,) = vfs_of(b.host.virsh("dumpxml", "g"))
    assert b.card.function(there).driver == "mlx5_vfio_pci"
    after = a.state()
    assert (after.switch_ports, after.claims) == ({}, {})


def test_a_guest_migrates_from_a_newer_libvirt_to_an_older(mixed: Pair) -> None:
    a, b = mixed.a, mixed.b
    b.start_guest(Guest("g", [Vf(b.vf(1), MAC, vlan=42)], machine=MACHINE))
    b.wait_until_settled()
    outcome = b.migrate("g", a)
    assert outcome.status == 0, outcome.error
    (here,) = vfs_of(a.host.virsh("dumpxml", "g"))
    function = a.card.function(here)
    assert (function.driver, function.migratable_at_bind) == ("mlx5_vfio_pci", True)
