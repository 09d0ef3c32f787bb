# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.testbed`: run the demo or scenarios, or keep the hosts up for a look at them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Callable

from tests.testbed import images, resident, scenario, selection, terminal
from tests.testbed.lab import Lab, hosts_here, hosts_up
from tests.testbed.namespace import run_inside
from tests.testbed.report import PASSED
from tests.testbed.scenarios import ALL, APART, DEMO
from tests.testbed.selection import Selection

KNOWN = {module.NAME: module for module in (*ALL, *APART)}


def prepare(chosen: Sequence[ModuleType] = ()) -> int:
    """Make what a run and the chosen scenarios need; a preparation that is killed leaves no process."""

    def work() -> int:
        with terminal.step("downloads, kernels and images (from the cache when they are there)"):
            images.prepare()
            for module in chosen:
                getattr(module, "prepare", lambda: None)()
        return 0

    return run_inside(work, network=False)


def checked(names: Sequence[str]) -> list[str]:
    """These names, or those of all scenarios. Raises SystemExit for an unknown name."""
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise SystemExit(f"unknown scenario: {', '.join(unknown)} (known: {', '.join(KNOWN)})")
    return list(dict.fromkeys(names)) or [module.NAME for module in ALL]


def select(names: Sequence[str], resume: bool, shuffle: str = "") -> Selection:
    """The scenarios of a run. With `resume`, those that passed for the same tree do not run again."""
    if resume:
        path = scenario.REPORT
        chosen = selection.resumed(names, selection.read_report(path), selection.tree())
        if not chosen.passed:
            terminal.say(f"nothing to resume: {path} has no scenario that passed with this tree")
        elif chosen.seed is not None or not shuffle:
            return chosen
        names = chosen.names
    if not shuffle:
        return Selection(names)
    seed = selection.new_seed(shuffle)
    return Selection(selection.shuffled(names, seed), seed)


def run_scenarios(chosen: Selection) -> int:
    """Start the hosts, unless they are up, and run scenarios on them; 0 when all passed."""
    modules = [KNOWN[name] for name in chosen.remaining]

    def work() -> int:
        with hosts_up() as lab:
            return run_on(lab, chosen)

    if chosen.seed is not None:
        terminal.say(f"the order is shuffled; SHUFFLE={chosen.seed} repeats it")
    if chosen.passed:
        terminal.say(f"not run again, because they passed: {', '.join(each.name for each in chosen.passed)}")
    if not modules:
        scenario.show(chosen.passed, chosen.passed)
        return 0
    prepared = prepare(modules)
    if prepared == 0 and resident.running():
        return resident.scenarios(chosen)
    return prepared or run_inside(work, network=True)


def run_on(lab: Lab, chosen: Selection) -> int:
    """Run scenarios on hosts that are up; 0 when all passed."""
    records = scenario.run_all(lab, chosen, KNOWN)
    scenario.show(records, chosen.passed)
    return 0 if all(record.outcome == PASSED for record in records) else 1


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("demo", help="the first three scenarios, with a timeline of what happens")
    run = verbs.add_parser("run", help="all scenarios, or those named")
    run.add_argument("scenario", nargs="*")
    run.add_argument("--resume", action="store_true", help="skip those that passed with the same tree")
    run.add_argument(
        "--shuffle",
        metavar="SEED",
        default="",
        help=f"run them in the order that belongs to this seed ({selection.RANDOM_SEED}: in any order)",
    )
    here = verbs.add_parser("here", help=argparse.SUPPRESS)  # `run`, once inside the hosts' namespaces
    here.add_argument("selection", type=Path, help="a file with the selection")
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
        "demo": lambda: run_scenarios(Selection([module.NAME for module in DEMO])),
        "run": lambda: run_scenarios(select(checked(options.scenario), options.resume, options.shuffle)),
        "here": lambda: run_on(hosts_here(), selection.load(options.selection)),
        "prepare": prepare,
        "up": lambda: prepare() or resident.up(),
        "shell": lambda: resident.shell(options.host, options.command),
        "down": resident.down,
    }
    return actions[options.verb]()


if __name__ == "__main__":
    sys.exit(main())
