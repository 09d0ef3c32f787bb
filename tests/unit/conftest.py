# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig of the unit tests, closed after each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.rig import MakeRig, Rig


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    with ExitStack() as rigs:

        def make(*options: Any, **more: Any) -> Rig:
            return rigs.enter_context(Rig(tmp_path, *options, **more))

        yield make


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
