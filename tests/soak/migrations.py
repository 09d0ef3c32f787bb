# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest migrates there and back on the test hosts: the scenario `soak`, which runs only here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.soak.tally import OPERATIONS, Tally
from tests.testbed import report
from tests.testbed.scenarios.soak import MIGRATIONS

TREE = Path(__file__).resolve().parents[2]


def run(migrations: int) -> Tally:
    """Migrate this many times."""
    tally = Tally("migrations to and fro", OPERATIONS)
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.testbed", "run", "soak"]
    path = report.BUILD / "report.json"
    path.unlink(missing_ok=True)
    status = subprocess.run(
        command, cwd=TREE, env={**os.environ, MIGRATIONS: str(migrations)}, check=False
    ).returncode
    if not path.exists():
        tally.fail(f"the test hosts did not come up (exit status {status})")
    else:
        (record,) = json.loads(path.read_text())["scenarios"]
        tally.measured = record["measured"]
        tally.tried = int(record["measured"].get("migrations", 0))
        if record["outcome"] != report.PASSED:
            tally.fail(record["why"])
        elif tally.tried != migrations:
            tally.fail(f"{tally.tried} migrations instead of {migrations}")
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
