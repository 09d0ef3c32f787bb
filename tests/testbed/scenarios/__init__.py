# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios, each in a module of its own, in the order in which they run.

A scenario is a module with `NAME`, `TIMEOUT_S` and `run(lab, record)`. It fills the record with what it
observes on the hosts and raises ScenarioError when something is not as it must be; it ends with nothing of
its own left running.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from tests.testbed.scenarios import (
    ansible_role,
    host_boot,
    migrate_busy_guest,
    migrate_interrupted,
    no_free_vf,
    plain_guest,
    provision_twice,
    replug_bond,
    rpm_install,
    rpm_remove,
    rpm_upgrade,
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
    replug_bond,
    migrate_busy_guest,
    migrate_interrupted,
    provision_twice,
    host_boot,
    rpm_install,
    rpm_upgrade,
    rpm_remove,
    ansible_role,
)
DEMO: Sequence[ModuleType] = ALL[:3]
