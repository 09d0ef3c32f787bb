# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the daemon share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.daemon.sync_rig import SyncRig


@pytest.fixture
def sync_rig(tmp_path: Path) -> Iterator[SyncRig]:
    with SyncRig(tmp_path) as rig:
        rig.reconciler.reconcile()
        yield rig
