# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between the vendors of network cards: every fact, rule and text about one vendor's cards.

One module for each vendor, registered by being in the package. `vendor` is the interface and says how to add one;
`registry` finds the vendor of a card by the PCI ID of its PF. No other package names a vendor, its tools or drivers.
It must not change a host.
"""
