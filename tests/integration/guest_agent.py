# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process of a guest machine: runs the commands that it receives on a serial line, one after the other.

    guest_agent.py /dev/ttyS1

A command is a line of JSON, {"words": [...], "stdin": "..."}; its result is another, {"status", "stdout", "stderr"}.
Processes that a command leaves behind keep running. Standard library only: its root has nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tty

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


def answer(line: str) -> str:
    """Run a command and return its result."""
    asked = json.loads(line)
    try:
        done = subprocess.run(
            asked["words"], input=asked["stdin"], capture_output=True, text=True, check=False, timeout=120
        )
        told = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    except (OSError, subprocess.TimeoutExpired) as error:
        told = {"status": 127, "stdout": "", "stderr": str(error)}
    return json.dumps(told)


def main() -> None:
    """Serve for ever."""
    os.environ.update(PATH=PATH, LANG="C.UTF-8", HOME="/root")
    line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    with open(line, "r+b", buffering=0) as serial, open(line, encoding="utf-8", closefd=False) as commands:
        serial.write(b"ready\n")
        while True:
            serial.write(answer(commands.readline()).encode() + b"\n")


if __name__ == "__main__":
    main()
