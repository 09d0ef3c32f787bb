# SPDX-License-Identifier: GPL-2.0-or-later
"""`converge-vs-manual`: the time in which a running vfmigrated prepares a VF, relative to the manual's commands.

`on_host.py` measures both in turns on a host of the test bed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.bench.measure import RUNS, Result, ratios, typical
from tests.testbed.__main__ import prepare
from tests.testbed.host import PF
from tests.testbed.lab import hosts_up
from tests.testbed.namespace import run_inside
from tests.testbed.provision import BRIDGE

SCRIPT = Path(__file__).with_name("on_host.py")
ROUNDS = 9
TIMEOUT_S = 900
AIM = 0.35


def results() -> list[Result]:
    """Start the test hosts and measure on the first of them. Raises RuntimeError when that fails."""
    with tempfile.TemporaryDirectory(prefix="vfmigrate-bench-") as folder:
        answer = Path(folder) / "times.json"

        def work() -> int:
            with hosts_up() as lab:
                command = f"python3 - {PF} {BRIDGE} {ROUNDS} {RUNS}"
                answer.write_text(lab.a.run(command, timeout=TIMEOUT_S, stdin=SCRIPT.read_bytes()))
            return 0

        if prepare() != 0 or run_inside(work, network=True) != 0:
            raise RuntimeError("the test host did not come to the end of its measurement")
        runs = json.loads(answer.read_text())
    took = ", ".join(f"{name} {typical(runs, name) * 1000:.0f} ms" for name in runs[0])
    against = f"relative to devlink port function set, virsh nodedev-detach and ovs-vsctl add-port ({took})"
    return [Result("converge-vs-manual", ratios(runs, "vfmigrated", "manual"), AIM, against)]
