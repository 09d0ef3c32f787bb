# SPDX-License-Identifier: GPL-2.0-or-later
"""The preloaded objects compile with the kernel headers of the oldest hosts on which the tests run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fakes import preload

HEADER = Path("/usr/include/linux/vfio.h")
#: not in the headers of Debian 11 (Linux 5.10)
NEWER = ("MIGRATION", "DMA_LOGGING_START", "MIG_DATA_SIZE")


def test_the_vfio_shim_compiles_with_headers_that_know_no_migration(tmp_path: Path) -> None:
    text = HEADER.read_text()
    for name in NEWER:
        text = re.sub(rf"^#define VFIO_DEVICE_FEATURE_{name}\b.*$", "", text, flags=re.MULTILINE)
    older = tmp_path / "include/linux/vfio.h"
    older.parent.mkdir(parents=True)
    older.write_text(text)
    assert preload.build("vfio_shim", tmp_path, f"-I{tmp_path / 'include'}").exists()
