# SPDX-License-Identifier: GPL-2.0-or-later
"""The borders between packages: `make lint` holds them, and fails when one is crossed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="a builder of packages has no linters")

CLONE = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts as `make lint` does, on the sources in a directory."""
    command: list[str] = [*map(str, [LINT_IMPORTS, "--no-cache", "--config", CLONE / ".importlinter"])]
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'lib'}:{tree / 'vdsm_plugin'}"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("lib", "vdsm_plugin"):
        shutil.copytree(CLONE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("lib/vfmigrate/cli/tables.py", "import libvirt", "only virt imports libvirt"),
        ("lib/vfmigrate/daemon/main.py", "import pyroute2", "only host imports pyroute2"),
        ("lib/vfmigrate/cli/tables.py", "import ovs.jsonrpc", "only ovs imports ovs"),
        ("lib/vfmigrate/model/pci.py", "from lxml import etree", "only domain and virt import lxml"),
        (
            "lib/vfmigrate/preflight/report.py",
            "from vfmigrate.claims import claim_store",
            "the command never reaches",
        ),
        ("lib/vfmigrate/model/pci.py", "from vfmigrate.host import sysfs", "only from those below it"),
        ("lib/vfmigrate/deadline.py", "from vfmigrate import polling", "only from those below it"),
        (
            "vdsm_plugin/vfmigrate_vdsm/points.py",
            "from vfmigrate import errors",
            "imports nothing of the library",
        ),
    ],
)
def test_a_forbidden_import_fails(tree: Path, module: str, planted: str, contract: str) -> None:
    path = tree / module
    head, future, body = path.read_text().partition("from __future__ import annotations\n")
    path.write_text(f"{head}{future}{planted}  # planted\n{body}")
    done = lint(tree)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout, done.stdout + done.stderr
    (broken,) = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert contract in broken


def test_the_library_keeps_its_import_contracts(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout


def test_the_hook_imports_nothing_of_the_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse((CLONE / "hooks/qemu").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not {name for name in imported if name.startswith("vfmigrate")}
