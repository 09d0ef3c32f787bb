# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vfmigrate evacuate` makes of a guest's XML, and what it shows."""

from __future__ import annotations

import pytest

from tests.unit.evacuate.test_planner import guest, host
from vfmigrate.cli import evacuate_verb, tables
from vfmigrate.errors import HostError, Refused
from vfmigrate.evacuate.planner import Plan
from vfmigrate.evacuate.runner import FAILED, MOVED, GuestResult
from vfmigrate.model.host_facts import VfFacts

UUID = "11111111-1111-4111-8111-000000000001"
XML = f"""<domain>
  <name>g</name><uuid>{UUID}</uuid>
  <metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>
    <v:vf mac='52:54:00:00:00:01' pool='data' vlan='42' strategy='vfio' psid='P' firmware='28' msix='8'/>
    <v:vf mac='52:54:00:00:00:02' pool='data' strategy='replug'/>
  </v:vfs></metadata>
  <memory unit='KiB'>4194304</memory><currentMemory unit='KiB'>2097152</currentMemory>
  <devices>
    <interface type='hostdev'><mac address='52:54:00:00:00:01'/>
      <source><address type='pci' domain='0' bus='1' slot='0' function='2'/></source></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:02'/>
      <source><address type='pci' domain='0' bus='1' slot='0' function='3'/></source></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:03'/>
      <source><address type='pci' domain='0' bus='1' slot='0' function='4'/></source></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:04'/>
      <source><address type='pci' domain='0' bus='9' slot='0' function='1'/></source></interface>
    <interface type='network'><mac address='52:54:00:00:00:05'/><source network='default'/></interface>
  </devices>
</domain>"""
HERE = host(
    "here",
    {
        "data": [
            [
                VfFacts("0000:01:00.2"),
                VfFacts("0000:01:00.9", guest=UUID, mac="52:54:00:00:00:02"),
                VfFacts("0000:01:00.4"),
            ]
        ]
    },
)
PF = "0000:00:00.0"


def test_a_guest_is_read_with_its_vfs_and_marks() -> None:
    found = evacuate_verb.read_guest(XML, HERE)
    assert (found.uuid, found.name, found.memory_mib) == (UUID, "g", 2048)
    first, second, third, fourth = found.vfs
    assert (first.pool, first.with_state, first.vlans, first.pf) == ("data", True, (42,), PF)
    assert (first.mark.psid, first.mark.msix) == ("P", 8)
    assert (second.pool, second.with_state, second.pf) == ("data", False, PF)
    # no mark yet: the daemon's word on the address
    assert (third.pool, third.with_state, third.pf) == ("data", True, PF)
    assert (fourth.pool, fourth.pf) == (None, None)
    assert found.from_pfs == {PF: 2}


def test_without_a_daemon_pools_come_from_the_metadata() -> None:
    found = evacuate_verb.read_guest(XML, None)
    assert [vf.pool for vf in found.vfs] == ["data", "data", None, None]
    assert not found.from_pfs


def test_plan_and_results_are_tables() -> None:
    one, two, three = guest(1), guest(2, 2), guest(3, 0)
    plan = Plan({one.uuid: "host-b", three.uuid: "host-c"}, {two.uuid: "host-b: no VF left"})
    assert list(tables.table([*evacuate_verb.plan_rows([one, two, three], plan)], 80)) == [
        "GUEST  VFS     DESTINATION",
        "g1     data    host-b",
        "g2     2 data  stays: host-b: no VF left",
        "g3     -       host-c",
    ]
    results = [
        GuestResult(one, MOVED, "host-b", 12.34, 41.0, tried=["host-b"]),
        GuestResult(two, problems=("host-b: no VF left",)),
        GuestResult(
            three, FAILED, "host-c", 3.0, problems=("broken",), error=HostError("broken"), tried=["host-c"]
        ),
    ]
    assert list(tables.table([*evacuate_verb.result_rows(results)], 80)) == [
        "GUEST  VFS     RESULT  HOST    SECONDS  DOWNTIME",
        "g1     data    moved   host-b  12.3     41 ms",
        "g2     2 data  stayed  -       -        -         host-b: no VF left",
        "g3     -       failed  -       3.0      -         broken",
    ]
    told = evacuate_verb.plain_results(results)
    assert [each["destination"] for each in told] == ["host-b", None, None]
    assert told[2]["error"] == {"kind": "host", "problem": "broken", "remedy": ""}


def test_the_exit_status_is_that_of_the_worst_result(capsys: pytest.CaptureFixture[str]) -> None:
    moved = GuestResult(guest(1), MOVED, "b")
    assert evacuate_verb.status([moved]) == 0
    assert capsys.readouterr().err == ""
    broken = GuestResult(guest(2), FAILED, "b", error=HostError("broken"), problems=("broken",))
    assert evacuate_verb.status([moved, broken, GuestResult(guest(3))]) == HostError.exit_code
    assert capsys.readouterr().err == "vfmigrate: not moved: g2, g3; run the command again to retry\n"
    amiss = GuestResult(guest(4), MOVED, "b", problems=("no port",))
    assert evacuate_verb.status([amiss]) == Refused.exit_code
    assert capsys.readouterr().err == "vfmigrate: moved with problems: g4\n"


def test_vfs_are_counted_by_pool() -> None:
    assert evacuate_verb.vfs_of(guest(1, 0)) == "-"
    both = guest(1, 2)
    assert evacuate_verb.vfs_of(both) == "2 data"
