# SPDX-License-Identifier: GPL-2.0-or-later
"""Unplug before the migration, plug in after it: for guests with a bond of their own."""
