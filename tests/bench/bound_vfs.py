# SPDX-License-Identifier: GPL-2.0-or-later
"""`hook-127-bound-vfs`: a guest arrives where the free VFs are bound to VFIO drivers, relative to unbound ones.

Whether such a VF is free is seen from the open files of all processes. VFs stay bound after a guest
whose VF libvirt does not manage, and after administrators and other programs.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench.crowded_host import PROCESSES, CrowdedHost, crowded_host
from tests.bench.measure import Result, Turn, ratios, repeated, typical
from tests.fakes.guest_xml import ELSEWHERE, guest
from vfmigrate.daemon.hook_handler import HookHandler

VFS = 127
ROUNDS = 15
AIM = 2.0
BOUND, UNBOUND = "bound", "unbound"


def results() -> list[Result]:
    """Measure `migrate`, the event at which a VF is chosen."""
    with ExitStack() as stack:
        turns = {
            name: _arrival(stack.enter_context(crowded_host(1, VFS, bound=name == BOUND)))
            for name in (BOUND, UNBOUND)
        }
        runs = repeated(turns, ROUNDS)
    took = f"{typical(runs, BOUND) * 1000:.1f} ms and {typical(runs, UNBOUND) * 1000:.1f} ms"
    against = f"the hook `migrate` beside {VFS} unbound VFs: {took}, with {PROCESSES} processes"
    return [Result(f"hook-{VFS}-bound-vfs", ratios(runs, BOUND, UNBOUND), AIM, against)]


def _arrival(crowded: CrowdedHost) -> Turn:
    handler, store = HookHandler(crowded.services), crowded.services.store
    xml = guest(1, ELSEWHERE)

    def arrive() -> None:
        if handler.handle("migrate", "begin", "-", xml) is None:
            raise RuntimeError("the guest got no VF")

    def forget() -> None:
        for claim in store.all():
            store.drop(claim)

    return Turn(arrive, forget)
