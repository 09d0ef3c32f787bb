# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the test bed's pure parts: what it computes from what the hosts told."""
