# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards of no other module: they need nothing but a variant driver."""

from __future__ import annotations

from vfmigrate.cards.vendor import Vendor

VENDOR = Vendor()
