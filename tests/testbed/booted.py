# SPDX-License-Identifier: GPL-2.0-or-later
"""A test host as it is right after it booted, saved once: later runs go on from there and need not wait for a boot.

Nothing of the product is in what is saved, nor of a run. A saved host has its memory in one file and its disk in
another, which nobody writes to any more.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.testbed import cache, images, kernel
from tests.testbed.host import INSIDE_CACHE, Host, HostError
from tests.testbed.run import run
from tests.testbed.timeline import clock_offset

# Raise when a host is saved in another way.
RECIPE = 2

SAVE_TIMEOUT_S = 300

# What the product imports: the host has these files in memory afterwards.
LIBRARIES = "python3 -c 'import dbus, libvirt, lxml.etree, ovs.jsonrpc, ovs.stream, pyroute2'"

# Not a part of the host, and QEMU cannot save one that has it mounted.
SHARED = "/testbed"


def resume(host: Host) -> None:
    """Have a host go on from its saved state, which is made when it is missing. Raises HostError."""
    state = INSIDE_CACHE / saved(host).name
    host.start(
        f"file={state / 'disk'},format=raw,snapshot=on",
        "-incoming",
        f"file:{state / 'memory'}",
    )
    host.await_greeting()
    # Its clock went on from when it was saved. The downtime that libvirt reports is a difference between two
    # hosts' clocks, so they must agree better than by as long as a command takes to arrive.
    host.run(f"date --set=@{time.time():.3f}; mountpoint -q {SHARED} || mount {SHARED}")
    host.run(f"date --set='now {-clock_offset(host):+.3f} seconds'")


def saved(host: Host) -> Path:
    """The directory with the state of a host that has just booted: `memory` and `disk`."""
    parts: cache.Parts = {
        "recipe": RECIPE,
        "image": images.host_image().name,
        "kernel": kernel.host_kernel().name,
        "machine": list(host.machine("disk")),
    }
    return cache.entry(f"booted-{host.hostname}", parts, lambda path: boot(host, path))


def boot(host: Host, path: Path) -> None:
    """Boot a host and save its state in the directory `path`."""
    path.mkdir()
    inside = INSIDE_CACHE / path.name
    run("cp", "--sparse=always", images.host_image() / "disk", path / "disk")
    host.start(f"file={inside / 'disk'},format=raw,cache=unsafe")
    try:
        host.await_boot()
        host.run(LIBRARIES)
        host.run(f"umount {SHARED}; sync")
        host.hang_up()
        host.ask_monitor(f"migrate -d file:{inside / 'memory'}")
        await_saved(host)
    finally:
        host.stop()


def await_saved(host: Host) -> None:
    """Wait until QEMU has written all of a host's state. Raises HostError."""
    deadline = time.monotonic() + SAVE_TIMEOUT_S
    while True:
        told = host.ask_monitor("info migrate")
        found = re.search(r"^(?:Migration )?[Ss]tatus: *(\S+)", told, re.MULTILINE)
        status = found.group(1) if found else ""
        if status == "completed":
            return
        if status == "failed" or time.monotonic() > deadline:
            raise HostError(f"the state of {host.hostname} could not be saved: {' '.join(told.split())}")
        time.sleep(0.2)
