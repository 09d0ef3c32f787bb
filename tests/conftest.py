# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of all tests: hypothesis has no deadline, since a machine can be busy; locks check how they are used."""

from __future__ import annotations

from hypothesis import settings

from vfmigrate import locks

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

locks.check(True)
