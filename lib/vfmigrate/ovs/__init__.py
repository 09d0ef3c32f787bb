# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch: the database, its bridges and ports, hardware offload, OpenFlow.

Nothing outside imports python-ovs.
"""
