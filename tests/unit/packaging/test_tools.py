# SPDX-License-Identifier: GPL-2.0-or-later
"""What the scripts that build packages and repositories say on a host that lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[3]
# As rpmbuild on a host without the build dependencies.
RPMBUILD = """\
#!/bin/sh
echo "error: Failed build dependencies:" >&2
echo "        python3-pytest is needed by vfmigrate-1-1.noarch" >&2
exit 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A directory for PATH with all programs of this machine but those of rpm."""
    place = tmp_path / "bin"
    place.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            if program.name not in {"rpmbuild", "createrepo_c"} and not (place / program.name).is_symlink():
                (place / program.name).symlink_to(program)
    yield place
    shutil.rmtree(place)


def run(path: Path, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": str(path), "RPM_OUTPUT": str(tmp_path / "rpm"), "SOURCE_DATE_EPOCH": "1"}
    return subprocess.run(words, cwd=TREE, env=env, capture_output=True, text=True, check=False)


def test_without_rpmbuild_its_package_is_named(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path, "rpm/build.sh", "all")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rpm/build.sh: rpmbuild is missing; install it: dnf install rpm-build git\n"


def test_without_createrepo_its_package_is_named(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path, "rpm/repo.sh", str(tmp_path / "repo"), "file:///srv", "a.rpm")
    assert done.returncode == 1
    assert "dnf install createrepo_c" in done.stderr


def test_without_build_dependencies_the_command_that_installs_them_is_named(
    path: Path, tmp_path: Path
) -> None:
    (path / "rpmbuild").write_text(RPMBUILD)
    (path / "rpmbuild").chmod(0o755)
    done = run(path, tmp_path, "rpm/build.sh", "rebuild", "vfmigrate-1-1.src.rpm")
    assert done.returncode == 1
    assert "python3-pytest is needed" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(": dnf builddep vfmigrate-1-1.src.rpm")


def test_a_repository_without_packages_is_an_error(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path, "rpm/repo.sh", str(tmp_path / "repo"), "file:///srv")
    assert done.returncode == 2
    assert done.stderr == "usage: rpm/repo.sh FOLDER URL PACKAGE...\n"
