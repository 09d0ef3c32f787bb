# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests against real servers in namespaces: libvirt, QEMU, Open vSwitch; no host VM, no hardware."""
