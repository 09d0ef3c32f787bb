# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's facts read from what its tools print, and what differs between two moments."""

from __future__ import annotations

from dataclasses import replace

from tests.testbed import facts

PRINTED = """\
== vfs
0 ../0000:01:10.0 none
1 ../0000:01:10.2 ../../../../bus/pci/drivers/igb_vfio_pci
== devlink
{"port":{"pci/0000:01:00.0/1":{"type":"eth","netdev":"enp1s0r0","flavour":"pcivf","vfnum":0,
"function":{"hw_addr":"00:00:00:00:00:00","roce":"enable","migratable":"disable"}},
"pci/0000:01:00.0/2":{"type":"eth","netdev":"enp1s0r1","flavour":"pcivf","vfnum":1,
"function":{"hw_addr":"52:54:00:00:00:02","roce":"enable","migratable":"enable"}},
"pci/0000:01:00.0/65535":{"type":"eth","netdev":"p0","flavour":"physical","port":0}}}
== ports
{"data":[["p0",["set",[]]],["enp1s0r1",42],["br-data",["set",[]]]],"headings":["name","tag"]}
== links
[{"ifname":"p0","flags":["BROADCAST","UP"]},{"ifname":"enp1s0r0","flags":["BROADCAST"]},
{"ifname":"enp1s0r1","flags":["UP","LOWER_UP"]}]
== claims
0000:01:10.2.json
== state
boot 5f1a
openvswitch 311 290
product
"""

VF = facts.Vf(1, "0000:01:10.2", "none", "enp1s0r1", "00:00:00:00:00:00", True)
BEFORE = facts.Facts(vfs={VF.address: VF}, ports={"p0": None}, links_up=frozenset({"p0"}))


def test_facts_are_read_from_the_scripts_output() -> None:
    seen = facts.parse(PRINTED)
    assert seen.vfs == {
        "0000:01:10.0": facts.Vf(0, "0000:01:10.0", "none", "enp1s0r0", "00:00:00:00:00:00", False),
        "0000:01:10.2": facts.Vf(1, "0000:01:10.2", "igb_vfio_pci", "enp1s0r1", "52:54:00:00:00:02", True),
    }
    assert seen.ports == {"p0": None, "enp1s0r1": 42, "br-data": None}
    assert seen.links_up == {"p0", "enp1s0r1"}
    assert seen.claims == {"0000:01:10.2.json"}
    assert seen.state == {"boot": "5f1a", "openvswitch": "311 290", "product": ""}


def test_an_unchanged_host_is_clean() -> None:
    assert facts.is_clean(facts.left_behind(BEFORE, BEFORE))


def test_each_kind_of_left_over_is_reported() -> None:
    after = facts.Facts(
        vfs={VF.address: replace(VF, driver="vfio-pci", mac="52:54:00:00:00:02", migratable=False)},
        ports={"p0": 42, "enp1s0r1": 43},
        links_up=frozenset({"p0", "enp1s0r1"}),
        claims=frozenset({"0000:01:10.2.json"}),
    )
    assert facts.left_behind(BEFORE, after) == {
        "ports": ["enp1s0r1", "p0: tag None became 42"],
        "claims": ["0000:01:10.2.json"],
        "drivers": ["0000:01:10.2: none became vfio-pci"],
        "macs": ["0000:01:10.2: 00:00:00:00:00:00 became 52:54:00:00:00:02"],
        "migratable": ["0000:01:10.2: True became False"],
        "links": ["enp1s0r1"],
    }


def test_a_missing_port_is_reported() -> None:
    after = replace(BEFORE, ports={})
    assert facts.left_behind(BEFORE, after)["ports"] == ["p0 is gone"]
    assert not facts.is_clean(facts.left_behind(BEFORE, after))


def test_an_excepted_vf_is_left_out_with_its_devices() -> None:
    seen = facts.parse(PRINTED)
    rest = seen.without(["0000:01:10.2"])
    assert set(rest.vfs) == {"0000:01:10.0"}
    assert rest.ports == {"p0": None, "br-data": None}
    assert rest.links_up == {"p0"}
    assert rest.claims == frozenset()
    assert facts.left_behind(rest, seen.without(["0000:01:10.2"])) == facts.left_behind(rest, rest)


def test_a_changed_host_is_reported_with_the_reason() -> None:
    state = dict.fromkeys(facts.STATE, "as it was")
    before = replace(BEFORE, state=state)
    assert facts.changes(before, replace(before, claims=frozenset({"a guest's"}))) == []
    for name, why in facts.STATE.items():
        assert facts.changes(before, replace(before, state={**state, name: "other"})) == [why]


def test_the_script_prints_every_line_of_the_state() -> None:
    assert all(f'\necho "{name} $(' in facts.SCRIPT for name in facts.STATE)
