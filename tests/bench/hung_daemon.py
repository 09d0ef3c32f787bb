# SPDX-License-Identifier: GPL-2.0-or-later
"""`destroy-beside-stopped-daemon`: how much longer `virsh destroy` takes beside a vfmigrated that is stopped.

The guest has a VF of a pool; libvirt, QEMU and Open vSwitch are real ones in a namespace host. It is compared with a
host where libvirt calls no hook of vfmigrate.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.measure import RUNS, Result
from tests.integration.hung_services import MOST_S, beside_stopped_daemon, without_hook
from tests.integration.pair import start_products, started_pair
from tests.testbed import images


def results() -> list[Result]:
    """Measure."""
    runs = []
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="vfmigrate-bench-"))
        pair = stack.enter_context(started_pair(images.host_root(), Path(place)))
        pair.reset()
        start_products(pair)
        for _ in range(RUNS):
            plain = without_hook(pair.a)
            runs.append(beside_stopped_daemon(pair.a) - plain)
    return [
        Result(
            "destroy-beside-stopped-daemon",
            runs,
            MOST_S,
            "more than without the hook of vfmigrate",
            unit="s",
        )
    ]
