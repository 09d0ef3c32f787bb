# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared objects that are preloaded into real programs so that they see a fake card; compiled when needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent


def build(name: str, folder: Path, *options: str) -> Path:
    """Compile `name`.c of this directory to `folder`/`name`.so, with more options for gcc.

    Raises CalledProcessError with gcc's words.
    """
    target = folder / f"{name}.so"
    flags = ("-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC")
    subprocess.run(["gcc", *flags, *options, "-o", target, SOURCES / f"{name}.c", "-ldl"], check=True)
    return target
