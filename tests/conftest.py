# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every test: none is timed, since a machine may be busy with anything."""

from __future__ import annotations

from hypothesis import settings

from vfmigrate import locks

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

locks.check_order(True)
