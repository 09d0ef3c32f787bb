# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `vfmigrate`: its verbs and its output.

Owns the command line, tables, progress and completion. It acts with the rights of the user who runs it, and sends
requests to the daemon for the rest; it must not import what only the root daemon may do.

What needs libvirt-python is imported by the functions that connect (`noqa: PLC0415 - libvirt`): help, completion,
manual pages and unit tests parse command lines where it is not installed.
"""
