# SPDX-License-Identifier: GPL-2.0-or-later
"""The library floor: the tests themselves run in a root with the oldest Python and libraries, and the packages too.

The unit tests, and those of Open vSwitch, devlink and network devices, run there with that root's Python; the servers
and the devlink tool are those of a host of today. test_floor_packages.py installs the built packages there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import junit
from tests.integration import namespaces, roots
from tests.patience import PATIENCE
from tests.testbed.root import host_root
from tests.testbed.run import run

TREE = Path(__file__).resolve().parents[2]
# What needs rich, or a tool that only developers have, is no part of a host.
UNIT = ("tests/unit", "--ignore=tests/unit/testbed", "--ignore=tests/unit/docs/test_manual.py")
DOORS = ("test_ovs", "test_ovs_bridge", "test_devlink_encoding", "test_links")
PYTEST = ("pytest", "-q", "-p", "no:cacheprovider")
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    "VFMIGRATE_TEST_PATIENCE": str(PATIENCE),
}
SECONDS = 1800


def run_in(root: Path, folder: Path) -> Sequence[junit.Report]:
    """Run all of it with the root `root`; logs and reports go to `folder`."""
    with tempfile.TemporaryDirectory() as place, namespaces.host("floor", root, Path(place)) as host:
        inside = Path(f"/proc/{host.pid}/root")
        for source, name in ((TREE, "tree"), (host_root(), "host-root")):
            (inside / "srv" / name).mkdir()
            mount = ("mount", "--bind", "-o", "ro", source, Path(place, "root/srv", name))
            run("nsenter", f"--target={host.pid}", "--mount", "--", *mount)
        tests = (*UNIT, *(f"tests/integration/{module}.py" for module in DOORS))
        done = host.run(
            *("sh", "-c", 'cd /srv/tree && exec "$@"', "sh"),
            *("python3", "-m", *PYTEST, "--junit-xml=/tmp/report.xml", *tests),
            check=False,
            env={**ENVIRONMENT, roots.VARIABLE: "/srv/host-root"},
            timeout=SECONDS * PATIENCE,
        )
        (folder / "libraries.log").write_text(done.stdout + done.stderr)
        shutil.copy(inside / "tmp/report.xml", folder / "libraries.xml")
    report = folder / "packages.xml"
    words = (sys.executable, "-m", *PYTEST, f"--junit-xml={report}", "tests/matrix/test_floor_packages.py")
    with (folder / "packages.log").open("w") as log:
        subprocess.run(words, cwd=TREE, stdout=log, stderr=log, check=False)
    return [junit.read(folder / "libraries.xml"), junit.read(report)]
