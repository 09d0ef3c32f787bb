# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests of other hosts: held to the pool of the network through which they came, and to guests that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

from tests.fakes.rig import Rig
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.daemon.remote_requests import RemoteRequests
from vfmigrate.errors import Denied, Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc.protocol import Request

DATA = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlan=42)
OTHER = Pool("other", (PciAddress(0, 2, 0, 0),), "br-data", network="net-other")
DOMAIN = "00000000-0000-4000-8000-000000000001"
MAC = "52:54:00:00:00:02"
SLOT = "0000:05:00.0"
CLAIM = {"domain": DOMAIN, "mac": MAC, "strategy": "replug"}
XML = f"""<domain><name>g</name><uuid>{DOMAIN}</uuid>
<metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'><v:vf mac='{MAC}' pool='data' strategy='replug'/></v:vfs></metadata>
<devices><interface type='hostdev'><mac address='{MAC}'/>
<source><address type='pci' domain='0' bus='1' slot='0' function='3'/></source>
<address type='pci' domain='0' bus='5' slot='0' function='0'/></interface></devices></domain>"""


class RemoteRig(Rig):
    """The rig with two pools, asked by another host."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, config=Config({"data": DATA, "other": OTHER}))
        self.xml: Optional[str] = None
        self.asked: list[Request] = []
        self.remote = RemoteRequests(self.config, self.take, lambda _uuid: self.xml)

    def take(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        return {} if request.name in ("facts", "ping") else self.client_requests.answer(request)

    def ask(self, network: str, name: str, **arguments: Any) -> dict[str, Any]:
        return self.remote.answer(network, Request(name, arguments))

    def running_claim(self) -> Claim:
        """A VF of pool `data` that a guest runs with."""
        return self.store.put(
            Claim(self.memory.vfs[2], "data", DOMAIN, "g", PLUGGED, since=0.0, expires=None, mac=MAC)
        )


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    with RemoteRig(tmp_path) as rig:
        yield rig


def test_a_request_is_about_the_pool_of_its_network(rig: RemoteRig) -> None:
    rig.ask("vfmigrate-data", "facts", pool=None)
    rig.ask("net-other", "ping")
    assert [each.arguments["pool"] for each in rig.asked] == ["data", "other"]
    claimed = rig.ask("vfmigrate-data", "claim", **CLAIM)
    assert claimed["pool"] == "data"


@pytest.mark.parametrize("name", ["claim", "give_back", "counters", "facts"])
def test_another_pool_is_denied(rig: RemoteRig, name: str) -> None:
    with pytest.raises(Denied, match="cannot be about another pool than 'other'"):
        rig.ask("net-other", name, **CLAIM, pool="data")
    with pytest.raises(Denied, match="belongs to no pool of this host"):
        rig.ask("vfmigrate-forged", name, **CLAIM)
    assert rig.store.all() == []


def test_reservations_of_another_pool_are_neither_shown_nor_given_back(rig: RemoteRig) -> None:
    rig.ask("vfmigrate-data", "claim", **CLAIM, pool="data")
    assert rig.ask("net-other", "give_back", domain=DOMAIN) == {"vfs": []}
    assert len(rig.store.all()) == 1
    assert len(rig.ask("vfmigrate-data", "give_back", domain=DOMAIN)["vfs"]) == 1
    rig.running_claim()
    rig.converger.converge(rig.memory.vfs[2])
    assert rig.ask("net-other", "counters", domain=DOMAIN) == {"ports": []}
    assert len(rig.ask("vfmigrate-data", "counters", domain=DOMAIN)["ports"]) == 1


def test_a_vf_of_another_pool_cannot_be_claimed_by_its_address(rig: RemoteRig) -> None:
    with pytest.raises(Refused, match="is not a VF of pool 'other'"):
        rig.ask("net-other", "claim", **CLAIM, vf=str(rig.memory.vfs[1]))


def test_a_slot_must_be_that_of_the_guests_own_vf(rig: RemoteRig) -> None:
    before = rig.running_claim()
    foreign = [
        None,
        XML.replace("replug", "vfio"),
        XML.replace("bus='5'", "bus='6'"),
        XML.replace("00:02'", "00:03'"),
    ]
    for rig.xml in foreign:
        with pytest.raises(Refused, match="has no VF with MAC"):
            rig.ask("vfmigrate-data", "claim", **CLAIM, slot=SLOT)
        assert rig.store.all() == [before]
    rig.xml = XML
    rig.ask("vfmigrate-data", "claim", **CLAIM, slot=SLOT)
    assert [claim.slot for claim in rig.store.all()] == [SLOT]


def test_the_slot_of_a_vf_of_another_pool_is_refused(rig: RemoteRig) -> None:
    before = rig.running_claim()
    rig.xml = XML
    with pytest.raises(Refused, match="for which vfmigrate has a claim"):
        rig.ask("net-other", "claim", **CLAIM, slot=SLOT)
    assert rig.store.all() == [before]


def test_no_vf_is_reserved_for_the_arrival_of_a_guest_that_is_here(rig: RemoteRig) -> None:
    rig.xml = XML
    with pytest.raises(Refused, match="already runs on this host"):
        rig.ask("vfmigrate-data", "claim", **CLAIM, slot=SLOT, incoming=True)
    rig.xml = None
    assert rig.ask("vfmigrate-data", "claim", **CLAIM, slot=SLOT, incoming=True)["pool"] == "data"
