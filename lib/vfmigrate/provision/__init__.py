# SPDX-License-Identifier: GPL-2.0-or-later
"""A host made ready for its pools: cards, Open vSwitch, libvirt's networks.

Part of the daemon. It never takes a VF from a running guest.
"""
