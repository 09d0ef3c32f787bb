# SPDX-License-Identifier: GPL-2.0-or-later
"""How long tests wait before they give up: longer where they are told to, on a machine that is busy."""

from __future__ import annotations

import os

# How many times as long as usual.
PATIENCE = float(os.environ.get("VFMIGRATE_TEST_PATIENCE", "1"))
