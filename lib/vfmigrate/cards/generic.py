# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards that no other module is for: they ask for nothing but a variant driver."""

from __future__ import annotations

from vfmigrate.cards.vendor import Vendor

VENDOR = Vendor()
