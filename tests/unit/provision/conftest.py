# SPDX-License-Identifier: GPL-2.0-or-later
"""The host in memory on which these tests provision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.provision.provision_rig import MakeProvisionRig, ProvisionRig


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeProvisionRig]:
    with ExitStack() as rigs:
        yield lambda **hardware: rigs.enter_context(ProvisionRig(tmp_path, **hardware))


@pytest.fixture
def rig(make_rig: MakeProvisionRig) -> ProvisionRig:
    return make_rig()
