# SPDX-License-Identifier: GPL-2.0-or-later
"""The unit tests mirror the library: `tests/unit/PACKAGE/test_MODULE.py` tests `lib/vfmigrate/PACKAGE/MODULE.py`.

The tests of a large module can be a folder of the module's name instead of one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).parents[2]
UNIT = TREE / "tests" / "unit"
LIBRARY = TREE / "lib" / "vfmigrate"

#: what holds of the whole library
OF_ALL = {
    "test_borders.py",
    "test_constructors.py",
    "test_mirror.py",
    "test_names.py",
    "test_output.py",
    "test_sizes.py",
}
#: the folders that mirror something else than a package of the library, and what that is
OTHERS = {
    "bench": "tests/bench",
    "docs": "docs",
    "fakes": "tests/fakes",
    "guest": "lib/vfmigrate_guest",
    "hook": "hooks",
    "matrix": "tests/matrix",
    "packaging": "rpm",
    "soak": "tests/soak",
    "testbed": "tests/testbed",
    "vdsm_plugin": "vdsm_plugin",
}


def mirroring() -> Iterator[tuple[Path, Path]]:
    """The test files that mirror a module, each with the module's path without its suffix."""
    for file in UNIT.rglob("test_*.py"):
        place = file.relative_to(UNIT)
        if place.parts[0] not in OTHERS and str(place) not in OF_ALL:
            mirrored = LIBRARY / place.parent
            divided = mirrored.with_suffix(".py").is_file()
            yield file, mirrored if divided else mirrored / place.stem[len("test_") :]


def test_each_file_has_its_module() -> None:
    strays = [
        str(file.relative_to(TREE))
        for file, module in mirroring()
        if not module.with_suffix(".py").is_file() and not (module / "__init__.py").is_file()
    ]
    assert strays == [], "name each after the module that it tests, or move it to the folder of what it tests"


def test_each_folder_mirrors_something() -> None:
    folders = {file.relative_to(UNIT).parts[0] for file in UNIT.glob("*/**/test_*.py")}
    packages = {package.parent.name for package in LIBRARY.glob("*/__init__.py")}
    assert folders <= packages | OTHERS.keys()
    assert OTHERS.keys() <= folders
    for folder, mirrored in OTHERS.items():
        assert folder not in packages
        assert (TREE / mirrored).is_dir(), f"tests/unit/{folder} mirrors {mirrored}, which is gone"
