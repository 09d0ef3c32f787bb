# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `vfmigrate`: its verbs, and what they print.

Owns the command line, tables, progress and completion. It acts with the rights of the user who calls it and
asks the daemon for the rest; it never reaches into what only the root daemon may do.
"""
