# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the fuzzer on each target in a separate process, and counts the inputs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from tests.soak.tally import INPUTS, Tally
from tests.testbed.run import run as run_command

TREE = Path(__file__).resolve().parents[2]
TARGETS = ("xml", "metadata", "socket", "config", "claim")
# longer inputs find nothing that these do not
_RUNS = 100_000_000
_GRACE_S = 60
# characters of an exception's text in the report; the log has all of it
_WHY = 300


def python() -> Path:
    """The interpreter with the fuzzer; its environment is made if it is missing."""
    return Path(run_command(TREE / "tests/venv.sh", "fuzz.txt").strip()) / "bin/python"


def run(seconds: int, folder: Path) -> list[Tally]:
    """Fuzz each target for this many seconds; failures and the corpus are kept in `folder`."""
    interpreter = python()
    return [fuzz(interpreter, name, seconds, folder / name) for name in TARGETS]


def fuzz(interpreter: Path, name: str, seconds: int, folder: Path) -> Tally:
    """Fuzz one target."""
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally(f"fuzzing: {name}", INPUTS)
    begun = time.monotonic()
    command = [interpreter, "-m", "tests.soak.fuzz_target", name, folder, _RUNS, seconds]
    done = subprocess.run(
        [os.fspath(word) if isinstance(word, Path) else str(word) for word in command],
        cwd=TREE,
        env={**os.environ, "PYTHONPATH": f"lib{os.pathsep}."},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + _GRACE_S,
        check=False,
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    tally.tried = int(found.group(1)) if found else 0
    covered = re.findall(r" cov: (\d+)", done.stderr)
    tally.measured["branches_covered"] = int(covered[-1]) if covered else 0
    if done.returncode != 0:
        told = re.search(r"Uncaught Python exception: ===\n(.*)", done.stdout)
        told = told or re.search(r"ERROR: libFuzzer: (.*)", done.stderr)
        why = told.group(1)[:_WHY] if told else f"it ended with status {done.returncode}"
        tally.fail(f"{why}; see {folder}")
    elif tally.tried == 0:
        tally.fail(f"nothing was tried; see {folder}/log")
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
