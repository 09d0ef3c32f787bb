# SPDX-License-Identifier: GPL-2.0-or-later
"""A test host is made a hypervisor: by the product's own provisioning, as on any host."""

from __future__ import annotations

from tests.testbed.host import Host

VFS = 4
BRIDGE = "br-data"

# libvirt asks QEMU what it can do when it is first used: seconds here, which no scenario should pay.
CAPABILITIES = "virsh domcapabilities --virttype qemu --machine q35 > /dev/null"


def provision(host: Host) -> None:
    """Make a host on which the product is installed ready for guests with VFs."""
    host.run("vfmigrate provision --wait 30", timeout=120)
    host.run(CAPABILITIES, timeout=120)
