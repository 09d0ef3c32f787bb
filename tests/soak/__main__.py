# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.soak [PART...]`: try thousands of faults, operations and inputs; writes build/soak/report.json.

The parts: `faults` (the integration tests marked long), `claims` (a crowd of processes at the daemon's socket), `fuzz`,
`users` (forty hostile users, floods of messages), `lifecycle` (guests, kills and faults in any order, on a host in
memory), `sweep` (the daemon is killed at every write), `kill` (services are killed at random moments of migrations),
`hung` (each service hangs during each hook operation), `migrations` (there and back on the test hosts). The default is
all of them. The report keeps the last result of a part until it runs again. The exit status is 1 when anything went
wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable

from rich.console import Console
from rich.table import Table

from tests.soak import crowd, faults, fuzz, hostile_users, hung, kill, lifecycle, migrations, sweep
from tests.soak.tally import FAULTS, INPUTS, OPERATIONS, Tally
from vfmigrate import locks

FOLDER = Path(__file__).resolve().parents[2] / "build" / "soak"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--migrations", type=int, default=50, help="to and fro (default: 50)")
    parser.add_argument("--claims", type=int, default=10_000, help="claims and returns (default: 10000)")
    parser.add_argument("--examples", type=int, default=5_000, help="of events in any order (default: 5000)")
    parser.add_argument("--fuzz-seconds", type=int, default=120, help="for each target (default: 120)")
    parser.add_argument("--stride", type=int, default=1, help="die at every nth write only (default: 1)")
    parser.add_argument("--seconds", type=int, default=3600, help="of killing services (default: 3600)")
    parser.add_argument("--seed", type=int, default=1, help="which service is killed when (default: 1)")
    return parser


def write(path: Path, parts: dict[str, Any]) -> None:
    """Write the report of the parts so far, with the totals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tallies = [tally for part in parts.values() for tally in part["tallies"]]
    total = {
        kind: {
            "tried": sum(tally["tried"] for tally in tallies if tally["kind"] == kind),
            "wrong": sum(tally["wrong"] for tally in tallies if tally["kind"] == kind),
        }
        for kind in (OPERATIONS, FAULTS, INPUTS)
    }
    path.write_text(json.dumps({"total": total, "parts": parts}, indent=2) + "\n")


def show(console: Console, parts: dict[str, Any]) -> None:
    """The figures as a table, and what went wrong below it."""
    table = Table("part", "what", "tried", "went wrong", "minutes")
    failures = []
    for part in parts.values():
        for tally in part["tallies"]:
            minutes = f"{tally['seconds'] / 60:.1f}"
            table.add_row(tally["name"], tally["kind"], str(tally["tried"]), str(tally["wrong"]), minutes)
            failures += [f"{tally['name']}: {failure}" for failure in tally["failures"]]
    console.print(table)
    for failure in failures:
        console.print(failure, soft_wrap=True, markup=False)


def main() -> int:
    """Run the parts; the exit status."""
    options = arguments().parse_args()
    locks.check(True)
    os.environ[locks.CHECKED_BY] = "1"  # of the fuzzers, too
    runs: dict[str, Callable[[], list[Tally]]] = {
        "faults": lambda: [faults.run(FOLDER)],
        "claims": lambda: [crowd.run(options.claims)],
        "lifecycle": lambda: [lifecycle.run(options.examples)],
        "fuzz": lambda: fuzz.run(options.fuzz_seconds, FOLDER / "fuzz"),
        "users": lambda: [hostile_users.run()],
        "sweep": lambda: [sweep.run(options.stride)],
        "hung": hung.run,
        "kill": lambda: [kill.run(options.seconds, options.seed)],
        "migrations": lambda: [migrations.run(options.migrations)],
    }
    unknown = [name for name in options.parts if name not in runs]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are {', '.join(runs)}")
    console, path = Console(), FOLDER / "report.json"
    parts: dict[str, Any] = json.loads(path.read_text())["parts"] if path.exists() else {}
    for name in options.parts or runs:
        console.print(f"soak: {name}")
        parts.pop(name, None)
        tallies = runs[name]()
        parts[name] = {
            "run_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "tallies": [tally.as_json() for tally in tallies],
        }
        write(path, parts)
    show(console, parts)
    console.print(f"report: {path}", soft_wrap=True)
    return 1 if any(tally["wrong"] for part in parts.values() for tally in part["tallies"]) else 0


if __name__ == "__main__":
    sys.exit(main())
