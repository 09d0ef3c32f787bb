# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that stay up in the background, for a developer: up, a shell on one, scenarios on both, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Optional

from tests.testbed import cache, images, report, selection
from tests.testbed.lab import hosts_up
from tests.testbed.namespace import RUN, let_go, run_inside
from tests.testbed.packages import CLONE
from tests.testbed.selection import Selection

STOP_S = 30


def state_file() -> Path:
    """Where the running pair of hosts is noted: its keeper's pid, when that started, and the hosts' disk image."""
    return cache.directory() / "testbed.state"


def started(pid: int) -> Optional[str]:
    """When a process started, in ticks since boot (proc(5)): pids come again, pairs of both do not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def running() -> Optional[dict[str, str]]:
    """The noted state of the running hosts, or None when there are none."""
    try:
        state: dict[str, str] = json.loads(state_file().read_text())
    except (OSError, ValueError):
        return None
    return state if started(int(state["keeper"])) == state["started"] else None


def up() -> int:
    """Start the hosts in the background and return when they are ready."""
    if running():
        print("the hosts are up already")
        return 0
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready_read)
        os.setsid()
        background(ready_write)
    os.close(ready_write)
    with os.fdopen(ready_read) as ready:
        if ready.read(1) != "1":
            os.waitpid(pid, 0)
            return 1
    noted = {"keeper": str(pid), "started": started(pid), "image": images.host_image().name}
    state_file().write_text(json.dumps(noted))
    print("the hosts are up: make testbed-shell HOST=a (or b), make testbed-down")
    return 0


def background(ready: int) -> NoReturn:
    """Be the process that keeps the hosts."""

    def work() -> int:
        with hosts_up():
            os.write(ready, b"1")
            # from here on nobody reads the output
            let_go((0, 1, 2, ready))
            while True:
                signal.pause()

    status = run_inside(work, network=True, leaving=(0, 1, 2, ready))
    os._exit(status)


def shell(host: str, command: Sequence[str]) -> int:
    """A root shell on a host, or a command there; returns its exit status."""
    state = running()
    if state is None:
        print("no hosts are up: run make testbed-up", file=sys.stderr)
        return 1
    inside = first_inside(int(state["keeper"]))
    ssh = ["ssh", "-F", str(RUN / "ssh.config"), f"host-{host}", *command]
    if not command:
        ssh.insert(1, "-t")
    return subprocess.run(
        ["nsenter", "--target", str(inside), "--net", "--mount", *ssh], check=False
    ).returncode


def scenarios(chosen: Selection) -> int:
    """Run scenarios on the hosts that are up, which get the product of this clone; returns the exit status."""
    state = running()
    if state is None or state["image"] != images.host_image().name:
        print("the running hosts have another disk image: run make testbed-down first", file=sys.stderr)
        return 1
    handed = report.BUILD / "selection.json"
    handed.parent.mkdir(parents=True, exist_ok=True)
    selection.save(chosen, handed)
    inside = str(first_inside(int(state["keeper"])))
    enter = ["nsenter", "--target", inside, "--net", "--mount", "--pid"]
    # entering leads to the root directory
    here = ["env", f"--chdir={CLONE}", sys.executable, "-m", "tests.testbed", "here", str(handed)]
    return subprocess.run([*enter, *here], check=False).returncode


def first_inside(keeper: int) -> int:
    """The pid of the namespaces' first process: the last in the keeper's line of only children."""
    pid = keeper
    for _ in range(2):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


def down() -> int:
    """End the hosts."""
    state = running()
    if state is None:
        print("no hosts are up")
        return 0
    keeper = int(state["keeper"])
    os.kill(keeper, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while started(keeper) == state["started"]:
        if time.monotonic() > deadline:
            os.kill(keeper, signal.SIGKILL)
            break
        time.sleep(0.1)
    state_file().unlink()
    return 0
