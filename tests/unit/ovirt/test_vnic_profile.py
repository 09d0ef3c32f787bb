# SPDX-License-Identifier: GPL-2.0-or-later
"""vNIC profiles of oVirt: what changes, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vfmigrate.errors import Refused
from vfmigrate.ovirt.vnic_profile import Change, Profile, changed, check, differences, find

PLAIN = Profile("1", "data", "net")
STANDBY = Profile("2", "standby", "mgmt")
PASSTHROUGH = Profile("3", "vf", "net", pass_through=True)
EXTERNAL = Profile("4", "ovn", "ext", external=True)
USED = Profile("5", "pair", "net", pass_through=True, failover="2")
ALL = (PLAIN, STANDBY, PASSTHROUGH, EXTERNAL, USED)
VFIO = {"vfmigrate_strategy": "vfio", "vfmigrate_pool": "data"}


def test_strategy_vfio_sets_custom_properties() -> None:
    before = replace(PLAIN, properties={"queues": "4"})
    after = changed(before, Change(properties={**VFIO, "vfmigrate_vlan": "43"}))
    check(before, after, ALL)
    assert after.properties == {"queues": "4", **VFIO, "vfmigrate_vlan": "43"}
    assert list(differences(before, after)) == [
        "vfmigrate_pool: none -> data",
        "vfmigrate_strategy: none -> vfio",
        "vfmigrate_vlan: none -> 43",
    ]
    assert changed(after, Change(properties=dict.fromkeys((*VFIO, "vfmigrate_vlan")))) == before


def test_a_failover_can_be_set_with_passthrough() -> None:
    after = changed(PLAIN, Change(pass_through=True, migratable=True, failover="2"))
    check(PLAIN, after, ALL)
    assert list(differences(PLAIN, after)) == ["pass_through: no -> yes", "failover: none -> 2"]


def test_passthrough_can_be_set_when_the_filter_is_removed() -> None:
    before = replace(PLAIN, network_filter=True)
    after = changed(before, Change(pass_through=True, no_network_filter=True))
    check(before, after, ALL)
    assert list(differences(before, after)) == ["pass_through: no -> yes", "network filter: yes -> no"]


def test_a_profile_without_passthrough_is_migratable() -> None:
    assert changed(PLAIN, Change(migratable=False)).migratable
    assert not changed(PASSTHROUGH, Change(migratable=False)).migratable
    assert changed(replace(PASSTHROUGH, migratable=False), Change(pass_through=False)).migratable


@pytest.mark.parametrize(
    ("before", "change", "words"),
    [
        (STANDBY, {"properties": VFIO}, "is the failover of pair, so it cannot be changed"),
        (PLAIN, {"failover": "2"}, "only with passthrough and migratable"),
        (PASSTHROUGH, {"failover": "2", "migratable": False}, "only with passthrough and migratable"),
        (PASSTHROUGH, {"failover": "3"}, "cannot be its own failover"),
        (PASSTHROUGH, {"failover": "5"}, "it has passthrough itself"),
        (PASSTHROUGH, {"failover": "4"}, "its network 'ext' is external"),
        (PASSTHROUGH, {"failover": "9"}, "no vNIC profile with the id 9"),
        (USED, {"pass_through": False}, "has a failover, which needs passthrough.*the REST API cannot"),
        (replace(PLAIN, port_mirroring=True), {"pass_through": True}, "has port mirroring"),
        (replace(PLAIN, qos=True), {"pass_through": True}, "has a QoS"),
        (replace(PLAIN, port_isolation=True), {"pass_through": True}, "has a network with port isolation"),
        (
            replace(PLAIN, network_filter=True),
            {"pass_through": True},
            "network filter.*; add --no-network-filter",
        ),
        (
            replace(PLAIN, port_mirroring=True),
            {"properties": VFIO},
            "port mirroring, which works on a bridge",
        ),
        (replace(PLAIN, port_isolation=True), {"properties": VFIO}, "isolation.*; choose another network"),
        (
            PASSTHROUGH,
            {"properties": VFIO},
            "the engine unplugs its VFs before a migration; .* --pass-through no",
        ),
        (PLAIN, {"properties": {"vfmigrate_strategy": "vfio"}}, "needs a pool; add --pool"),
        (PLAIN, {"properties": {"vfmigrate_pool": "data"}}, "which only strategy vfio uses"),
        (PLAIN, {"properties": {**VFIO, "vfmigrate_pool": "a;b"}}, "cannot have a ';'"),
    ],
)
def test_a_change_that_the_engine_would_refuse_is_refused(
    before: Profile, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        check(before, changed(before, Change(**change)), ALL)


def test_a_profile_is_found_by_name_network_or_id() -> None:
    twin = Profile("6", "data", "other")
    assert find(ALL, "data") is PLAIN
    assert find((*ALL, twin), "other/data") is twin
    assert find((*ALL, twin), "1") is PLAIN
    with pytest.raises(Refused, match=r"several .* 'data': net/data \(1\), other/data \(6\)"):
        find((*ALL, twin), "data")
    with pytest.raises(Refused, match="no vNIC profile 'absent'; its profiles: ext/ovn"):
        find(ALL, "absent")
    with pytest.raises(Refused, match="its profiles: none"):
        find((), "absent")
