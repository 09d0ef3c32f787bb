# SPDX-License-Identifier: GPL-2.0-or-later
"""How long libvirt takes for a guest with a VF, without vfmigrate's hook and beside a vfmigrated that is stopped."""

from __future__ import annotations

import time

from tests.integration.guests import Guest, Vf
from tests.integration.pair import Node

#: the most seconds that `virsh destroy` may take longer beside a vfmigrated that is stopped
MOST_S = 3.0


def guest(node: Node) -> Guest:
    """A guest with a VF of the host's pool."""
    return Guest("stopping", [Vf(node.vf(2), "52:54:00:00:00:77", vlan=42)])


def without_hook(node: Node) -> float:
    """Seconds of `virsh destroy` where libvirt calls no hook of vfmigrate, and vfmigrated runs."""
    node.product.remove_hook()
    try:
        node.start_guest(guest(node))
        return _destroy(node)
    finally:
        node.product.install_hook()


def beside_stopped_daemon(node: Node) -> float:
    """Seconds of `virsh destroy` while vfmigrated, which knows the guest, is stopped (SIGSTOP)."""
    node.start_guest(guest(node))
    with node.product.halted():
        return _destroy(node)


def _destroy(node: Node) -> float:
    begun = time.monotonic()
    node.host.virsh("destroy", guest(node).name)
    return time.monotonic() - begun
