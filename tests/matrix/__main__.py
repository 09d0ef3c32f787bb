# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.matrix [CELL...]`: the integration tests on hosts of several releases; `--turn`: one cell.

Logs, pytest's reports and the table are in build/matrix afterwards. The exit status is 1 when a test failed, and 75
when none failed but a cell could not run, because its packages cannot be had.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests import junit
from tests.integration import roots
from tests.matrix import floor, table, versions
from tests.matrix.cells import CELLS, FLOOR, Cell, Run, in_turn
from tests.matrix.table import Result
from tests.testbed.apt import ArchiveError
from tests.testbed.root import floor_root, host_root
from tests.testbed.run import CommandError, run

TREE = Path(__file__).resolve().parents[2]
FOLDER = TREE / "build" / "matrix"
NOT_RUN = 75


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="default: all of them")
    parser.add_argument("--turn", action="store_true", help="one cell, chosen by the number of commits")
    parser.add_argument("--jobs", default="2", help="how many test files run at the same time (default: 2)")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The cells that the command line names."""
    if options.turn:
        return [in_turn(int(run("git", "-C", TREE, "rev-list", "--count", "HEAD")))]
    known = {cell.name: cell for cell in CELLS}
    unknown = [name for name in options.cells if name not in known]
    if unknown:
        raise SystemExit(f"no cell {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in options.cells or known]


def tried(cell: Cell, jobs: str) -> Result:
    """Make the roots of a cell and run its tests."""
    result = Result(cell.name)
    try:
        made = [floor_root()] if cell is FLOOR else [host_root(release) for release in cell.releases]
    except (ArchiveError, CommandError) as error:
        result.missing = f"its root cannot be made: {error}"
        return result
    asked = [versions.seen(root) for root in made]
    result.versions = {name: [each[name] for each in asked] for name in versions.NAMES}
    folder = FOLDER / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.monotonic()
    if cell is FLOOR:
        count(result, floor.run_in(made[0], folder), [])
    for each in cell.runs:
        in_hosts(each, folder, jobs, result)
    result.seconds = time.monotonic() - begun
    return result


def in_hosts(each: Run, folder: Path, jobs: str, result: Result) -> None:
    """Run tests on hosts of two releases; those that fail run a second time, since a machine can be busy."""
    name = "-".join(release.name for release in each.hosts)
    reports: list[junit.Report] = []
    for attempt in ("first", "second"):
        report = folder / f"{name}-{attempt}.xml"
        words = [
            *(sys.executable, "-m", "pytest", "-q", f"--numprocesses={jobs}", "--dist=loadfile"),
            *("-o", f"cache_dir={folder / name}", f"--junit-xml={report}"),
            *(["--last-failed", "--last-failed-no-failures=none"] if reports else []),
            *(f"tests/integration/{module}.py" for module in each.modules),
        ]
        env = {**os.environ, roots.VARIABLE: ",".join(release.name for release in each.hosts)}
        with (folder / f"{name}-{attempt}.log").open("w") as log:
            subprocess.run(words, cwd=TREE, env=env, stdout=log, stderr=log, check=False)
        reports.append(junit.read(report))
        if not reports[-1].failures:
            break
    count(result, reports[:1], reports[1:])


def count(result: Result, first: Sequence[junit.Report], second: Sequence[junit.Report]) -> None:
    """Add the reports of runs to a cell's result; what failed at first counts as it did at the second try."""
    for report in first:
        result.passed += report.passed
        result.skipped += report.skipped
        if not second:
            result.failures = [*result.failures, *report.failures]
    for report in second:
        result.passed += report.passed
        result.again += report.passed
        result.failures = [*result.failures, *report.failures]


def main() -> int:
    """Run the cells one after the other; the exit status."""
    options = arguments()
    cells = chosen(options)
    results = []
    for cell in cells:
        print(f"matrix: {cell.name}", flush=True)
        result = tried(cell, options.jobs)
        results.append(result)
        for failure in result.failures:
            print(f"  {failure}; see {FOLDER / cell.name}")
        if result.missing:
            print(f"  {result.missing}")
    made = table.lines(results)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "table.md").write_text("\n".join(made) + "\n")
    print("\n".join(made))
    outcomes = {result.outcome for result in results}
    return 1 if "failed" in outcomes else NOT_RUN if "not run" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
