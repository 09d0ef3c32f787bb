# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of the network: one result for each fault of names, ports, clocks and rates."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.preflight.snapshots import Fault, check_error, check_warning, good, the, way
from vfmigrate.preflight.snapshot import AddressFacts

#: by what is wrong
ERRORS: Mapping[str, Fault] = {
    "no name": (way(address=AddressFacts("there")), "pair", "address", "cannot resolve 'there'"),
    "loopback": (
        way(address=AddressFacts("there", ("127.0.1.1",), 49152, "reachable")),
        "pair",
        "address",
        "to here itself instead of there",
    ),
    "firewall": (
        way(address=AddressFacts("there", ("10.0.0.2",), 49152, "filtered")),
        "pair",
        "ports",
        "firewall",
    ),
}

WARNINGS: Mapping[str, Fault] = {
    "clock": (way(clock_ahead=-7.0), "pair", "clock", "7 s behind"),
    "odd port": (
        way(address=AddressFacts("there", ("10.0.0.2",), 49152, "Network is down")),
        "pair",
        "ports",
        "Network is down",
    ),
    "too busy": (way(dirty_mibs=900.0, bandwidth_mibs=500), "pair", "dirty-rate", "will not converge"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_of_the_network_is_found(fault: str) -> None:
    check_error(ERRORS[fault])
    assert the(ERRORS[fault][0](good())).remedy


@pytest.mark.parametrize("fault", WARNINGS)
def test_a_warning_about_the_network_is_found(fault: str) -> None:
    check_warning(WARNINGS[fault])
