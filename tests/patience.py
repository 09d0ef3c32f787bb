# SPDX-License-Identifier: GPL-2.0-or-later
"""How long tests wait before they give up; VFMIGRATE_TEST_PATIENCE makes it longer on a busy machine."""

from __future__ import annotations

import os

# the factor of every wait
PATIENCE = float(os.environ.get("VFMIGRATE_TEST_PATIENCE", "1"))
