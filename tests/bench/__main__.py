# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the speed that the project promises: prints a table and writes build/bench/report.json.

    python -m tests.bench [NAME...]

NAME selects measurements by their module: hook, vdsm, switch, status, many_vfs, bound_vfs, slow_card, hung_daemon,
manual; the default is all of them. Each row is measured several times; it shows the median and the spread. The exit
status is 1 when the median of a row misses its limit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.measure import RUNS, Result

#: modules of this package; each has a function `results`
MEASUREMENTS = (
    "hook",
    "vdsm",
    "switch",
    "status",
    "many_vfs",
    "bound_vfs",
    "slow_card",
    "hung_daemon",
    "manual",
)
REPORT = Path(__file__).resolve().parents[2] / "build" / "bench" / "report.json"
# where python3-openvswitch is (tests/packages.txt)
DISTRIBUTION = Path("/usr/lib/python3/dist-packages")


def main(arguments: Sequence[str]) -> int:
    """Make the selected measurements; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="NAME")
    names = parser.parse_args(arguments).names or MEASUREMENTS
    console = Console()
    results: list[Result] = []
    with distribution_ovs():
        for name in names:
            console.print(f"measuring: {name}")
            results += importlib.import_module(f"tests.bench.{name}").results()
            write(results)
    show(console, results)
    return 0 if all(result.met for result in results) else 1


@contextmanager
def distribution_ovs() -> Iterator[None]:
    """Have `import ovs` find the distribution's python-ovs, as on a hypervisor.

    It parses JSON in C, PyPI's build in Python.
    """
    with tempfile.TemporaryDirectory(prefix="vfmigrate-bench-") as name:
        (Path(name) / "ovs").symlink_to(DISTRIBUTION / "ovs")
        sys.path.insert(0, name)
        try:
            # python-ovs falls back to Python without an error if it is missing
            importlib.import_module("ovs._json")
            yield
        finally:
            sys.path.remove(name)


def write(results: Sequence[Result]) -> None:
    """Write the report of what has been measured so far."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"results": [result.as_json() for result in results]}
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(console: Console, results: Sequence[Result]) -> None:
    """Print the results as a table of at most 80 columns, then what each is relative to."""
    shown = Table("measurement", title=f"Median and spread of {RUNS} runs")
    for heading in ("median", "spread", "at most"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("unit", no_wrap=True)
    for result in results:
        style = "" if result.aim is None else "green" if result.met else "bold red"
        shown.add_row(
            result.name,
            f"[{style}]{result.value:.2f}[/]" if style else f"{result.value:.2f}",
            result.spread,
            "" if result.aim is None else f"{result.aim:g}",
            result.unit or "ratio",
        )
    console.print(shown)
    for result in results:
        console.print(f"{result.name}: {result.against}", highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
