# SPDX-License-Identifier: GPL-2.0-or-later
"""The test bed: two emulated hosts with an SR-IOV card, the product installed on them, its scenarios.

`python -m tests.testbed` runs it; docs/testing.md says what it proves and what only real hardware can.
"""
