# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries to preload into real programs so that they meet a fake kernel, compiled from the C beside this."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent


def build(name: str, directory: Path) -> Path:
    """Compile the shim `name` (`genl_shim`) into `directory`; returns the library's path."""
    library = directory / f"{name}.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(_SOURCES / f"{name}.c"), "-ldl"], check=True)
    return library
