# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults that take too long for every change: the integration tests marked `long`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests import junit
from tests.soak.tally import FAULTS, Tally

TREE = Path(__file__).resolve().parents[2]


def run(folder: Path) -> Tally:
    """Run the tests; each is a fault."""
    tally = Tally("faults in namespaces", FAULTS)
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "faults.xml"
    begun = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "long",
        f"--junit-xml={report}",
        "tests/integration",
    ]
    with (folder / "faults.log").open("w") as log:
        status = subprocess.run(command, cwd=TREE, stdout=log, stderr=log, check=False).returncode
    found = junit.read(report)
    tally.tried = found.tried
    for failure in found.failures:
        tally.fail(f"{failure}; see {folder / 'faults.log'}")
    if status != 0 and tally.wrong == 0:
        tally.fail(f"pytest ended with status {status}; see {folder / 'faults.log'}")
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
