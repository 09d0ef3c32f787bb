# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling the network where a guest's MAC address is now. One module a method.

Part of the daemon.
"""
