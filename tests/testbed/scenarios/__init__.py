# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios, each in its own module, in the order in which `make testbed` runs them.

A scenario is a module with `NAME`, `TIMEOUT_S` and `run(lab, record)`. It records what it observes on the hosts, raises
ScenarioError when something is wrong, and ends the guests that it started. It may be the first of a run or follow any
other: hosts that a scenario leaves other than they were provisioned are restored after it.

A guest takes a minute to boot here. A scenario with `FINDS` uses this guest where the scenario before left it running
on host A (`Lab.leave`), and boots it otherwise (`Lab.find_guest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from tests.testbed.scenarios import (
    ansible_role,
    attach,
    cancel_early,
    cancel_late,
    check,
    daemon_killed,
    evacuate,
    failover,
    failover_live,
    failover_no_bridge,
    failover_no_vf,
    host_boot,
    hotplug,
    incompatible_firmware,
    libvirtd_killed,
    migrate_busy_guest,
    migrate_interrupted,
    no_free_vf,
    ovirt,
    ovs_down,
    persistent,
    plain_guest,
    planted_failure,
    pool_network,
    provision_twice,
    replug_bond,
    rpm_install,
    rpm_remove,
    rpm_upgrade,
    save_restore,
    soak,
    vfio_quiet,
    vfio_two_vfs,
    vfio_vlan,
)

ALL: Sequence[ModuleType] = (
    vfio_vlan,
    vfio_quiet,
    no_free_vf,
    vfio_two_vfs,
    plain_guest,
    failover,
    failover_live,
    failover_no_vf,
    failover_no_bridge,
    cancel_early,
    cancel_late,
    daemon_killed,
    libvirtd_killed,
    ovs_down,
    incompatible_firmware,
    persistent,
    pool_network,
    hotplug,
    save_restore,
    replug_bond,
    migrate_busy_guest,
    migrate_interrupted,
    attach,
    evacuate,
    check,
    provision_twice,
    host_boot,
    rpm_install,
    rpm_upgrade,
    rpm_remove,
    ansible_role,
    ovirt,
)
DEMO: Sequence[ModuleType] = ALL[:3]
# Run only when named.
APART: Sequence[ModuleType] = (soak, planted_failure)
