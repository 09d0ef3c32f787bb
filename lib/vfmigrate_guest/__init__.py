# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate-guest`: a bond inside a guest, for migrations that unplug its VF. Depends on dbus-python only."""

from __future__ import annotations

# the version of vfmigrate, which is not imported here; a test holds them equal
VERSION = "0.1.0"
