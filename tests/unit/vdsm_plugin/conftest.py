# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the plugin for vdsm share."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vdsm_plugin.vdsm import PLUGIN, Vdsm


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the plugin as `make install-vdsm` puts it there."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run(["make", "-s", "-C", PLUGIN.parent, "install-vdsm", f"DESTDIR={root}"], check=True)
    return root


@pytest.fixture
def vdsm(installed: Path) -> Iterator[Vdsm]:
    # not pytest's directory, which is closed to other users
    with tempfile.TemporaryDirectory(prefix="vfmigrate-vdsm-") as name:
        Path(name).chmod(0o755)
        rig = Vdsm(Path(name), installed)
        yield rig
        rig.close()
