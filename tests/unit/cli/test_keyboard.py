# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C as a key, on a real terminal, and as a signal where there is none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[3]

#: a child that dies of the signal which a terminal's Ctrl-C would send to all; a key sends none
PROGRAM = """\
import subprocess, sys
from vfmigrate.cli.keyboard import interruptible
child = subprocess.Popen(["sleep", "60"])
with interruptible() as wanted:
    print("ready", flush=True)
    heard = wanted.wait(20)
alive = child.poll() is None
child.kill()
print("heard" if heard else "deaf", "child alive" if alive else "child dead", flush=True)
sys.exit(7)
"""


def test_ctrl_c_reaches_no_child_process(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    script = CLONE / "tests/testbed/on_terminal.py"
    words: list[object] = [sys.executable, script, shown, "ready", "env", f"PYTHONPATH={CLONE / 'lib'}"]
    done = subprocess.run([*map(str, words), sys.executable, "-c", PROGRAM], check=False, timeout=60)
    assert shown.read_text().splitlines() == ["ready", "heard child alive"]
    assert done.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_as_ctrl_c_does(number: signal.Signals) -> None:
    environment = {"PYTHONPATH": str(CLONE / "lib"), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "heard child alive\n"
    assert process.returncode == 7
