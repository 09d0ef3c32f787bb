# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes too long for every change: faults, operations and inputs by the thousand. See docs/reliability.md."""
