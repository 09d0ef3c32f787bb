# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest with a VF needs inside for migrations that take the VF away for a while. Depends on dbus-python only."""

from __future__ import annotations

# vfmigrate's own, of which nothing is imported here; a test holds the two together
VERSION = "0.1.0"
