# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.testbed`: run the demo or all scenarios, or keep the hosts up to look around."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Callable

from tests.testbed import images, resident, scenario, terminal
from tests.testbed.lab import Lab, hosts_here, hosts_up
from tests.testbed.namespace import run_inside
from tests.testbed.report import PASSED
from tests.testbed.scenarios import ALL, APART, DEMO


def prepare(chosen: Sequence[ModuleType] = ()) -> int:
    """Make what a run and the chosen scenarios need; nothing of a killed preparation runs on."""

    def work() -> int:
        with terminal.step("downloads, kernels and images (from the cache when they are there)"):
            images.prepare()
            for module in chosen:
                getattr(module, "prepare", lambda: None)()
        return 0

    return run_inside(work, network=False)


def scenarios_named(names: Sequence[str]) -> list[ModuleType]:
    """The scenarios with these names, or all. Raises SystemExit for a name that is none."""
    known = {module.NAME: module for module in (*ALL, *APART)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(ALL)


def run_scenarios(chosen: Sequence[ModuleType]) -> int:
    """Bring the hosts up, unless they are, and run scenarios on them; 0 when all passed."""

    def work() -> int:
        with hosts_up() as lab:
            return run_on(lab, chosen)

    prepared = prepare(chosen)
    if prepared == 0 and resident.running():
        return resident.scenarios([module.NAME for module in chosen])
    return prepared or run_inside(work, network=True)


def run_on(lab: Lab, chosen: Sequence[ModuleType]) -> int:
    """Run scenarios on hosts that are up; 0 when all passed."""
    records = scenario.run_all(lab, chosen)
    return 0 if all(record.outcome == PASSED for record in records) else 1


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("demo", help="the first three scenarios, with a timeline of what happens")
    run = verbs.add_parser("run", help="all scenarios, or those named")
    run.add_argument("scenario", nargs="*")
    here = verbs.add_parser("here", help=argparse.SUPPRESS)  # `run`, once inside the hosts' namespaces
    here.add_argument("scenario", nargs="*")
    verbs.add_parser("prepare", help="only fill the cache")
    verbs.add_parser("up", help="start the hosts and leave them running")
    shell = verbs.add_parser("shell", help="a root shell on a running host")
    shell.add_argument("host", choices=("a", "b"), nargs="?", default="a")
    shell.add_argument("command", nargs=argparse.REMAINDER, help="instead of a shell")
    verbs.add_parser("down", help="end the hosts that `up` started")
    return parser


def main() -> int:
    """Do what the command line says; returns the exit status."""
    options = arguments().parse_args()
    if os.geteuid() != 0:
        print("the test bed needs root: it makes namespaces, roots and disk images", file=sys.stderr)
        return 1
    actions: dict[str, Callable[[], int]] = {
        "demo": lambda: run_scenarios(DEMO),
        "run": lambda: run_scenarios(scenarios_named(options.scenario)),
        "here": lambda: run_on(hosts_here(), scenarios_named(options.scenario)),
        "prepare": prepare,
        "up": lambda: prepare() or resident.up(),
        "shell": lambda: resident.shell(options.host, options.command),
        "down": resident.down,
    }
    return actions[options.verb]()


if __name__ == "__main__":
    sys.exit(main())
