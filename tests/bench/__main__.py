# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the speed that the project promises: prints a table and writes build/bench/report.json.

    python -m tests.bench [NAME...]

NAME selects measurements by their module: hook, vdsm, switch, status, slow_card, manual; the default is all of
them. The exit status is 1 when a result misses its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import hook, manual, slow_card, status, switch, vdsm
from tests.bench.measure import Result

MEASUREMENTS = {
    "hook": hook.results,
    "vdsm": vdsm.results,
    "switch": switch.results,
    "status": status.results,
    "slow_card": slow_card.results,
    "manual": manual.results,
}
REPORT = Path(__file__).resolve().parents[2] / "build" / "bench" / "report.json"


def main(arguments: Sequence[str]) -> int:
    """Make the selected measurements; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="NAME")
    names = parser.parse_args(arguments).names or MEASUREMENTS
    console = Console()
    results: list[Result] = []
    for name in names:
        console.print(f"measuring: {name}")
        results += MEASUREMENTS[name]()
        write(results)
    console.print(table(results))
    return 0 if all(result.met for result in results) else 1


def write(results: Sequence[Result]) -> None:
    """Write the report of what has been measured so far."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"results": [result.as_json() for result in results]}
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def table(results: Sequence[Result]) -> Table:
    """The results for a terminal."""
    shown = Table("measurement", "ratio or figure", "aim", "against")
    for result in results:
        style = "" if result.aim is None else "green" if result.met else "bold red"
        aim = "" if result.aim is None else f"at most {result.aim:g}"
        shown.add_row(
            result.name,
            f"[{style}]{result.value:.2f}[/]" if style else f"{result.value:.2f}",
            aim,
            result.against,
        )
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
