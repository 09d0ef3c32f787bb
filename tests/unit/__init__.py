# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of one module at a time, on plain values and temporary directories."""
