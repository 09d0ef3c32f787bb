# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration of one guest to another host: started, watched, verified.

Part of the command, with its user's rights. It acts on a host only through libvirt and the two daemons.
"""
