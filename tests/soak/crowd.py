# SPDX-License-Identifier: GPL-2.0-or-later
"""Many processes claim and release VFs of one pool over the daemon's socket: no VF has two owners at a time.

A process that gets a VF creates a file of the VF's name, which must not exist, and removes it before it releases the
VF. Two owners at a time would thus meet at the file, whatever the daemon has recorded.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.pair import Node, start_products, started_pair
from tests.integration.product import SOCKET
from tests.soak.tally import OPERATIONS, Tally
from tests.testbed import images
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.rpc import protocol

PROCESSES = 16
GUESTS_EACH = 4


@dataclass
class Told:
    """What one process did and saw."""

    operations: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def trade(work: tuple[int, int, str, str]) -> Told:
    """One process: claim and release VFs this many times, for guests of its own."""
    number, operations, socket, place = work
    told, path, turn = Told(), Path(socket), 0
    while told.operations < operations:
        turn += 1
        guest = number * GUESTS_EACH + turn % GUESTS_EACH
        domain = f"22222222-2222-4222-8222-{guest:012d}"
        mac = f"52:54:00:02:{guest >> 8:02x}:{guest & 255:02x}"
        wish = {
            "domain": domain,
            "name": f"g{guest}",
            "mac": mac,
            "strategy": "vfio",
            "pool": "data",
            "vlan": 42,
        }
        try:
            vf = protocol.ask("claim", wish, path=path)["vf"]
        except Refused as refusal:
            told.refused += 1
            if "no free VF" not in str(refusal):
                told.failures.append(f"claim of {domain}: {refusal}")
            time.sleep(0.001 * (1 + turn % 7))
            continue
        except (VfmigrateError, KeyError) as error:
            told.failures.append(f"claim of {domain}: {error}")
            continue
        told.operations += 1
        hold(Path(place) / str(vf), domain, told)
        try:
            given = protocol.ask("give_back", {"domain": domain}, path=path)["vfs"]
        except (VfmigrateError, KeyError) as error:
            told.failures.append(f"return of {vf}: {error}")
            continue
        told.operations += 1
        if given != [vf]:
            told.failures.append(f"{domain} had {vf} and gave back {given}")
    return told


def hold(marker: Path, domain: str, told: Told) -> None:
    """Own a VF for a moment, and check that nobody else does."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        told.failures.append(f"{marker.name} was given to {domain} while another had it")
        return
    marker.unlink()


def resources(node: Node) -> dict[str, int]:
    """Open files, threads and resident memory (KiB) of the daemon."""
    (pid,) = node.host.run("pgrep", "-f", "/vfmigrated$").stdout.split()
    status = node.host.path(f"/proc/{pid}/status").read_text()
    figures = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "files": len(list(node.host.path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(figures["Threads"]),
        "rss_kib": int(figures["VmRSS"].split()[0]),
    }


def run(operations: int) -> Tally:
    """Have many processes make this many claims and releases at the same time, on a host of their own."""
    tally = Tally("concurrent claims and returns", OPERATIONS)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as place,
        tempfile.TemporaryDirectory() as markers,
        started_pair(images.host_root(), Path(place)) as pair,
    ):
        pair.reset()
        start_products(pair)
        node = pair.a
        before, at_first = node.state(), resources(node)
        socket = os.fspath(node.host.path(SOCKET))
        share = -(-operations // PROCESSES)
        work = [(number, share, socket, markers) for number in range(PROCESSES)]
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            for told in pool.imap_unordered(trade, work, chunksize=1):
                tally.tried += told.operations
                tally.measured["refused"] = tally.measured.get("refused", 0) + told.refused
                for failure in told.failures:
                    tally.fail(failure)
        after = node.state()
        if after != before:
            tally.fail(f"the host is not as before: {after} instead of {before}")
        if "vfmigrated has a bug" in node.product.log():
            tally.fail("the daemon told of a bug")
        tally.measured.update(processes=PROCESSES, at_first=at_first, at_last=resources(node))
        pair.reset()
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
