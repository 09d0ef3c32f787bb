# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between the vendors of network cards: every fact, rule and text about a make of card, and nothing else.

One module a vendor, found by being here. `vendor` is the interface and says how to add one; `registry` finds a
card's vendor by the PCI ID of its PF. Nobody outside names a vendor, its tools or its drivers.
It must not change a host: a vendor reads, judges and words.
"""
