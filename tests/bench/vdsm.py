# SPDX-License-Identifier: GPL-2.0-or-later
"""`vdsm-hook-without-vf`: the time at each vdsm hook point for a guest without VFs, relative to a bare interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import mean

from tests.bench.measure import Result, Turn, repeated, typical

SCRIPT = Path(__file__).resolve().parents[2] / "vdsm_plugin" / "50_vfmigrate"
GUEST = Path(__file__).with_name("plain-guest.xml")
POINTS = (
    "before_device_create",
    "before_nic_hotplug",
    "after_nic_hotunplug",
    "before_vm_start",
    "before_vm_migrate_source",
    "before_vm_migrate_destination",
    "after_vm_destroy",
    "after_get_stats",
)
ROUNDS = 20
AIM = 1.5


def results() -> list[Result]:
    """Measure every kind of hook point, run as vdsm does, relative to `python3 -I`."""
    with tempfile.TemporaryDirectory(prefix="vfmigrate-bench-") as name:
        directory = Path(name)
        data = directory / "domain.xml"
        shutil.copy(GUEST, data)
        turns = {}
        for point in POINTS:
            script = directory / point / "50_vfmigrate"
            script.parent.mkdir()
            # no daemon listens here
            text = SCRIPT.read_text(encoding="utf-8")
            script.write_text(text.replace("/run/vfmigrate/vfmigrated.sock", str(directory / "sock")))
            script.chmod(0o755)
            turns["bare", point] = _program(data, "/usr/bin/python3", "-I", "-c", "pass")
            turns["hook", point] = _program(data, str(script))
        runs = repeated(turns, ROUNDS)
    ratios = [mean(times["hook", point] / times["bare", point] for point in POINTS) for times in runs]
    bare_ms = typical(runs, ("bare", POINTS[0])) * 1000
    against = f"relative to python3 -I -c pass ({bare_ms:.1f} ms); mean of {len(POINTS)} hook points"
    return [Result("vdsm-hook-without-vf", ratios, AIM, against)]


def _program(data: Path, *command: str) -> Turn:
    """A turn that runs a program as vdsm runs a hook."""
    environment = {"PATH": os.environ["PATH"], "_hook_domxml": str(data), "queues": "4"}

    def run() -> None:
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        if done.stdout or done.stderr:
            raise RuntimeError(f"{command[0]} should say nothing: {done.stdout + done.stderr!r}")

    return Turn(run)
