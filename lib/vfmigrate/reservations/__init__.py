# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF a guest gets, and for how long it may keep it.

Part of the daemon: selection, reservations, adoption, what clients ask for, and how many VFs migrate at once.
It never calls libvirt.
"""
