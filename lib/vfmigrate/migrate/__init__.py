# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest migrated to another host, and watched on its way.

Part of the command, with its user's rights. It never touches a host but through libvirt and the two daemons.
"""
