# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon `vfmigrated`: the process, the hook operations, the event loop, the reconciler, status and host facts.

The only part with privileges. Nothing in it calls libvirt while it answers a hook.
"""
