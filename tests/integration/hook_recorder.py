#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirt hook for tests: it records every call, and refuses, crashes or waits as a test has ordered.

It is installed under several names, so that it runs before and after vfmigrate's hook. Each call is a line of JSON in
/run/hooks/calls. Files of the test are orders: `refuse-SCRIPT-OPERATION` holds the message of a refusal,
`crash-SCRIPT-OPERATION` makes it end by SIGKILL, and `hold-SCRIPT-OPERATION` makes the calls for the guests that it
names wait until the file is removed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PLACE = Path("/run/hooks")


def held(order: Path) -> "list[str]":
    """The guests whose calls are to wait."""
    try:
        return order.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []


def main() -> int:
    """Record one call; returns the exit status for libvirt."""
    script = Path(sys.argv[0]).name
    name, operation, suboperation, extra = sys.argv[1:5]
    call = {
        "time": time.time(),
        "script": script,
        "name": name,
        "operation": operation,
        "suboperation": suboperation,
        "extra": extra,
        "xml": sys.stdin.read(),
    }
    with (PLACE / "calls").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps(call) + "\n")
    while name in held(PLACE / f"hold-{script}-{operation}"):
        time.sleep(0.01)
    if (PLACE / f"crash-{script}-{operation}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        sys.stderr.write((PLACE / f"refuse-{script}-{operation}").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
