# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook points at which the plugin acts, and what its exit status means to vdsm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from vfmigrate_vdsm import endings, handover, migration, report, start
from vfmigrate_vdsm.daemon import PATIENCE, Daemon, PluginError

GOOD = 0
#: stop, and run no other hook: with 1 vdsm would go on, and report only a later hook's error to the engine
STOP = 2
#: vdsm asks for these every few seconds, in line with other work
REPORT_PATIENCE = 2.0


@dataclass(frozen=True)
class Point:
    """What is done at a hook point."""

    act: Callable[[Daemon], None]
    #: vdsm stops what it is about to do when the hook says so
    refusing: bool = True
    patience: float = PATIENCE


POINTS = {
    "before_device_create": Point(start.before_device_create),
    "before_vm_start": Point(start.before_vm_start),
    "before_nic_hotplug": Point(start.before_nic_hotplug),
    "after_nic_hotplug": Point(endings.after_nic_hotplug, refusing=False),
    "after_nic_hotplug_fail": Point(endings.give_back, refusing=False),
    "after_nic_hotunplug": Point(endings.give_back, refusing=False),
    "before_vm_migrate_source": Point(migration.before_vm_migrate_source),
    "before_vm_migrate_destination": Point(migration.before_vm_migrate_destination),
    "after_vm_destroy": Point(endings.after_vm_destroy, refusing=False),
    "after_get_caps": Point(report.after_get_caps, refusing=False, patience=REPORT_PATIENCE),
    "after_get_stats": Point(report.after_get_stats, refusing=False, patience=REPORT_PATIENCE),
}


def run(name: str, socket: str) -> int:
    """Act at a hook point; returns the exit status."""
    point = POINTS[name]
    try:
        point.act(Daemon(socket, point.patience))
    except PluginError as error:
        handover.log(str(error))
        return STOP if point.refusing else GOOD
    except Exception as error:  # noqa: BLE001 - logged; a traceback would hide what vdsm passes on
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
        handover.log(f"the plugin has a bug: {type(error).__name__} at {place}")
        return STOP if point.refusing else GOOD
    return GOOD
