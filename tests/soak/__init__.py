# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that take too long for every change: thousands of faults, operations and inputs. See docs/reliability.md."""
