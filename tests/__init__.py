# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of vfmigrate, in layers: unit, integration, testbed."""
