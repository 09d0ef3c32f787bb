# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of each host: one result for each fault of its software, switch and cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.preflight.snapshots import (
    Fault,
    bad,
    check_error,
    check_warning,
    good,
    on,
    pf,
    pool,
    the,
    told,
)
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.model.host_facts import FindingFacts, SwitchFacts

#: by what is wrong
ERRORS: Mapping[str, Fault] = {
    "no hook": (told("destination", hook=False), "destination", "hook", "does not find vfmigrate's hook"),
    "no switch": (
        told("destination", switch=SwitchFacts(problem="it is down")),
        "destination",
        "openvswitch",
        "it is down",
    ),
    "no vswitchd": (
        told("destination", switch=SwitchFacts(offload="on")),
        "destination",
        "openvswitch",
        "ovs-vswitchd",
    ),
    "legacy": (pf("destination", mode="legacy"), "destination", "cards", "legacy"),
    "PF gone": (
        pool("destination", findings=(FindingFacts("error", "there is no PCI device", "see lspci"),)),
        "destination",
        "cards",
        "there is no PCI device",
    ),
}

WARNINGS: Mapping[str, Fault] = {
    "another configuration on disk": (
        told("destination", problems=(FindingFacts("warning", "the configuration changed", "reload"),)),
        "destination",
        "daemon",
        "there: the configuration changed",
    ),
    "offload off": (
        told("destination", switch=SwitchFacts(running=True, offload="off")),
        "destination",
        "offload",
        "there: hardware offload of Open vSwitch is off",
    ),
    "offload waits": (
        told("source", switch=SwitchFacts(running=True, offload="restart")),
        "source",
        "offload",
        "not in effect",
    ),
    "vswitchd of the source": (
        told("source", switch=SwitchFacts(offload="on")),
        "source",
        "openvswitch",
        "ovs-vswitchd",
    ),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_of_a_host_is_found(fault: str) -> None:
    check_error(ERRORS[fault])
    assert the(ERRORS[fault][0](good())).remedy or fault == "no switch"  # it has that of the database's error


@pytest.mark.parametrize("fault", WARNINGS)
def test_a_warning_about_a_host_is_found(fault: str) -> None:
    check_warning(WARNINGS[fault])


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_daemon_that_does_not_answer_is_one_error(side: str) -> None:
    """One error; the checks that need its facts are left out."""
    trouble = Unreachable("vfmigrated does not answer", "run: systemctl start vfmigrated")
    lines = bad(on(side, lambda host: replace(host, facts=None, trouble=trouble))(good()))
    mine = [line for line in lines if line.severity == "error"]
    assert [(line.side, line.check, line.text) for line in mine] == [
        (side, "daemon", "vfmigrated does not answer")
    ]


def test_a_guest_without_vfs_needs_no_daemon() -> None:
    snapshot = replace(good(), vfs=(), clock_ahead=None)
    trouble = HostError("nobody there")
    for side in ("source", "destination"):
        snapshot = on(side, lambda host: replace(host, facts=None, trouble=trouble))(snapshot)
    assert all(line.severity != "error" for line in bad(snapshot))
