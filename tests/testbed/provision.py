# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator does to a hypervisor before the product comes: the card under switchdev, a bridge, libvirt.

The product is to take this over one day; then this module shrinks.
"""

from __future__ import annotations

from tests.testbed.host import PF, Host

VFS = 4
BRIDGE = "br-data"

# The PF goes up first: igb's wire must be there before the card's look-alike sends on it. VFs get no host
# driver.
CARD = f"""
set -e
device=/sys/bus/pci/devices/{PF}
ip link set "$(ls $device/net)" up
modprobe cx7sim
echo 0 > $device/sriov_drivers_autoprobe
echo {VFS} > $device/sriov_numvfs
devlink dev eswitch set pci/{PF} mode switchdev
ip link set p0 up
ovs-vsctl --may-exist add-br {BRIDGE} -- --may-exist add-port {BRIDGE} p0
modprobe -a vfio-pci tun
udevadm settle
"""

# libvirt asks QEMU what it can do when it is first used: seconds here, which no scenario should pay.
CAPABILITIES = "virsh domcapabilities --virttype qemu --machine q35 > /dev/null"


def provision(host: Host) -> None:
    """Make a booted host a hypervisor with VFs."""
    host.run(CARD, timeout=120)
    host.run(CAPABILITIES, timeout=120)
