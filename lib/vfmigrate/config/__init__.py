# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: its keys, how they are read, and the pools that come of it."""
