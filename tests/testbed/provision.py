# SPDX-License-Identifier: GPL-2.0-or-later
"""A test host is prepared for guests with VFs by `vfmigrate provision`, as any host."""

from __future__ import annotations

from tests.testbed.host import Host

VFS = 4
BRIDGE = "br-data"

# The emulated card has no hardware to put flows into. So that they stay in the datapath, as on a host whose card
# refuses them, and do not go through tc in software, which takes long under emulation.
NO_SOFTWARE_TC = "ovs-vsctl --timeout=60 set Open_vSwitch . other_config:tc-policy=skip_sw"


def provision(host: Host) -> None:
    """Make a host on which the product is installed ready for guests with VFs."""
    host.run(NO_SOFTWARE_TC, timeout=120)
    host.run("vfmigrate provision --wait 30", timeout=120)
