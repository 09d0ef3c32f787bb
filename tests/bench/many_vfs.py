# SPDX-License-Identifier: GPL-2.0-or-later
"""A host whose pools have 5,000 VFs: `hook-5000-vfs` and `reconcile-5000-vfs`.

`hook-5000-vfs` is the slowest of the events of a guest that arrives and leaves, on a host whose VFs are all free and
on one with a single free VF, which is found last. `reconcile-5000-vfs` is a reconcile that finds nothing to do while
every VF belongs to a guest; libvirt does not run, so its answers do not count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, cast

from tests.bench.crowded_host import crowded_host
from tests.bench.measure import RUNS, Result, Turn, repeated
from tests.bench.switch import AN_HOUR_S, configurations, confirming
from tests.fakes.guest_xml import ELSEWHERE, guest
from vfmigrate import journal
from vfmigrate.announce.announcer import Announcer
from vfmigrate.daemon.domain_sync import DomainSync
from vfmigrate.daemon.hook_handler import HookHandler
from vfmigrate.daemon.reconciler import Reconciler
from vfmigrate.errors import Unreachable
from vfmigrate.ovs import ovsdb

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor

PFS, VFS = 40, 125
ALL = PFS * VFS
ROUNDS = 3
HOOK_AIM_S, RECONCILE_AIM_S = 0.5, 1.0
EVENTS = (
    ("migrate", "begin"),
    ("prepare", "begin"),
    ("start", "begin"),
    ("started", "begin"),
    ("stopped", "end"),
    ("release", "end"),
)


def results() -> list[Result]:
    """Measure both."""
    return [_hook(), _reconcile()]


def _hook() -> Result:
    runs: list[dict[str, float]] = [{} for _ in range(RUNS)]
    with crowded_host(PFS, VFS) as crowded, confirming(crowded.switch, _confirm):
        handler = HookHandler(crowded.services)
        for state in ("all free", "one free"):
            if state == "one free":
                crowded.give_away(range(1, ALL))
            for run in runs:
                run.update({f"{event}, {state}": took for event, took in _events(handler).items()})
    slowest = {name: median(run[name] for run in runs) for name in runs[0]}
    name = max(slowest, key=slowest.__getitem__)
    against = f"the slowest event of a guest with one VF: {name}"
    return Result(f"hook-{ALL}-vfs", [max(run.values()) for run in runs], HOOK_AIM_S, against, unit="s")


def _events(handler: HookHandler) -> Mapping[str, float]:
    """The median duration of each event in seconds."""
    times: dict[str, list[float]] = {operation: [] for operation, _ in EVENTS}
    for _ in range(ROUNDS):
        xml = guest(1, ELSEWHERE)
        for operation, sub_operation in EVENTS:
            begun = time.perf_counter()
            answer = handler.handle(operation, sub_operation, "-", xml)
            times[operation].append(time.perf_counter() - begun)
            xml = answer or xml
        if "bus='0x81'" in xml:
            raise RuntimeError("the guest got no VF")
    return {operation: median(each) for operation, each in times.items()}


def _confirm(remote: str) -> None:
    """Act as ovs-vswitchd, in a time that hardly depends on the number of ports."""
    database = ovsdb.Database(remote, timeout=AN_HOUR_S)
    for number in configurations(database):
        new = [["ofport", "==", ovsdb.to_set([])]]
        database.transact(
            {"op": "update", "table": "Interface", "where": new, "row": {"ofport": 1}},
            {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"cur_cfg": number}},
        )


class _NoLibvirt:
    """A libvirt that does not run."""

    def running(self) -> Mapping[str, str]:
        """Nobody knows."""
        raise Unreachable("no connection to libvirt")


def _reconcile() -> Result:
    hypervisor = cast("Hypervisor", _NoLibvirt())
    with crowded_host(PFS, VFS, claimed=True) as crowded:
        services = crowded.services
        announcer = Announcer(services.config, services.host, services.store, services.log)
        handler = HookHandler(services)
        domain_sync = DomainSync(services, handler.adoption, hypervisor, lambda _seconds, _uuid, _work: None)
        reconciler = Reconciler(services, domain_sync, announcer, hypervisor)
        with journal.failures() as failures:
            changes = reconciler.reconcile()
        # libvirt is the one thing that fails
        if changes or len(failures) > 1:
            raise RuntimeError(f"nothing should change or fail: {changes[:3]}, {failures[:3]}")
        before = time.process_time()
        runs = repeated({"reconcile": Turn(reconciler.reconcile)}, ROUNDS)
        cpu = (time.process_time() - before) / (RUNS * (3 + ROUNDS))
        announcer.stop()
    against = f"with a guest on each VF; {cpu:.2f} s of that are CPU time of the daemon"
    times = [each["reconcile"] for each in runs]
    return Result(f"reconcile-{ALL}-vfs", times, RECONCILE_AIM_S, against, unit="s")
