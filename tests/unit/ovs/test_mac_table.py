# SPDX-License-Identifier: GPL-2.0-or-later
"""The VLANs of a MAC in the text of `fdb/show`, and the control socket that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs import mac_table

MAC, OTHER = "52:54:00:00:00:02", "52:54:00:00:00:03"
TABLE = f"""\
 port  VLAN  MAC                Age
    1     0  {OTHER}    2
    3    42  {MAC}    0
    3    43  {MAC}  299
LOCAL     0  d2:6e:93:cf:90:4c   10
"""


def test_a_mac_has_the_vlans_of_its_lines() -> None:
    assert mac_table.vlans_of(TABLE, [MAC, "52:54:00:00:00:09"]) == {
        MAC: frozenset({42, 43}),
        "52:54:00:00:00:09": frozenset(),
    }


def test_the_control_socket_is_named_after_the_process(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="ovs-vswitchd does not run"):
        mac_table.control_socket(tmp_path)
    (tmp_path / "ovs-vswitchd.pid").write_text("812\n")
    assert mac_table.control_socket(tmp_path) == tmp_path / "ovs-vswitchd.812.ctl"
    with pytest.raises(Unreachable, match="no answer from"):
        mac_table.show(tmp_path / "ovs-vswitchd.812.ctl", "br-data", 1.0)


def test_a_process_id_that_cannot_be_read_does_not_mean_that_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd.pid").mkdir()  # read as root, no file is denied
    with pytest.raises(HostError, match=r"cannot see whether ovs-vswitchd runs: read .*: Is a directory"):
        mac_table.control_socket(tmp_path)
