# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the operations share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from tests.fakes.doors import MemoryHost
from tests.unit.daemon.hook_handler.rig import POOL, MakeRig, Rig
from vfmigrate.config.configuration import Pool


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    rigs = []

    def make(memory: Optional[MemoryHost] = None, pool: Pool = POOL) -> Rig:
        rigs.append(Rig(tmp_path, memory or MemoryHost(), pool))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.store.close()
        rig.log.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
