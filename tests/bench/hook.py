# SPDX-License-Identifier: GPL-2.0-or-later
"""`hook-without-vf`: the time of the hook at each event of a guest without VFs, relative to an empty Python program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from statistics import mean

from tests.bench.measure import Result, Turn, repeated, typical

HOOK = Path(__file__).resolve().parents[2] / "hooks" / "qemu"
GUEST = Path(__file__).with_name("plain-guest.xml")
ROUNDS = 20

# The operations with libvirt's further arguments (https://libvirt.org/hooks.html).
EVENTS = (
    ("migrate", "begin", "-"),
    ("prepare", "begin", "-"),
    ("start", "begin", "-"),
    ("started", "begin", "-"),
    ("stopped", "end", "-"),
    ("release", "end", "migrated"),
    ("reconnect", "begin", "-"),
    ("restore", "begin", "-"),
)


def results() -> list[Result]:
    """Measure every event relative to the interpreter in the hook's first line."""
    interpreter = HOOK.read_text(encoding="utf-8").splitlines()[0][2:].split()[0]
    empty = _program(interpreter, "-I", "-S", "-c", "pass")
    turns = {}
    for event in EVENTS:
        # Each event is compared with an empty program of its own, so that both run under the same load of the machine.
        turns["empty", event[0]] = empty
        turns["hook", event[0]] = _program(os.fspath(HOOK), "plain", *event)
    runs = repeated(turns, ROUNDS)
    ratios = [mean(times["hook", each[0]] / times["empty", each[0]] for each in EVENTS) for times in runs]
    empty_ms = typical(runs, ("empty", EVENTS[0][0])) * 1000
    against = f"relative to python3 -I -S -c pass ({empty_ms:.1f} ms); mean of {len(EVENTS)} operations"
    return [Result("hook-without-vf", ratios, 1.3, against)]


def _program(*command: str) -> Turn:
    """A turn that runs a program as libvirt does: the XML comes from a pipe, the output goes to pipes."""
    xml = GUEST.read_bytes()

    def run() -> None:
        done = subprocess.run(command, input=xml, capture_output=True, check=True)
        if done.stdout or done.stderr:
            raise RuntimeError(f"{command[0]} should say nothing: {done.stdout + done.stderr!r}")

    return Turn(run)
