# SPDX-License-Identifier: GPL-2.0-or-later
"""Names: in the whole library no class name stands for two things."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import vfmigrate

LIBRARY = Path(vfmigrate.__file__).parent


def test_no_two_classes_have_one_name() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(str(path.relative_to(LIBRARY)))
    assert found
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
