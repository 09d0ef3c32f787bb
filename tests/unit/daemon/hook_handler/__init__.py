# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the hook operations on a host in memory."""
