# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's facts: gathered from a host in memory, told to another one, and read there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hardware import Hardware
from tests.unit.provision.provision_rig import POOL, ProvisionRig
from vfmigrate.claims.claim_store import PLUGGED, PREPARED
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.bindings import Bindings
from vfmigrate.converge.converger import Converger
from vfmigrate.daemon.inventory import Inventory
from vfmigrate.daemon.observation import Observer
from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.errors import InputError, Unreachable
from vfmigrate.host.local_files import LocalFiles
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import BridgeFacts, FileFacts, HostFacts, PfFacts, PoolFacts
from vfmigrate.rpc.protocol import Request

NONE = Bindings()
PATHS = ("/disk", "/etc/shadow")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProvisionRig]:
    with ProvisionRig(tmp_path) as rig:
        rig.provision()
        rig.run_switch(200)
        yield rig


def gather(
    rig: ProvisionRig, pool: Pool = POOL, leaving: frozenset[str] = frozenset(), bindings: Bindings = NONE
) -> HostFacts:
    def migrating(uuid: str) -> bool:
        if uuid not in leaving:
            raise Unreachable("no connection to libvirt")
        return True

    def storage() -> KnownStorage:
        return KnownStorage(disks=("/disk",))

    config = Config({pool.name: pool})
    check = rig.provisioner(pool).check
    local_files = LocalFiles(rig.memory.ovs.bridge_exists, Path("/nonexistent"))
    converger = Converger(rig.memory.host, config, rig.store)
    converger.bindings = bindings
    services = replace(rig.services, config=config, converger=converger)
    inventory = Inventory(
        services, Observer(services, rig.offload, check, rig.query.known), migrating, local_files, storage
    )
    files = host_facts.file_arguments("5a17", PATHS)
    request = Request("facts", {"bridges": ["br-data", "br-none"], **files})
    answer = host_facts.read(json.loads(json.dumps(inventory.answer(request))))
    return host_facts.with_paths(answer, "5a17", PATHS)


def the(told: HostFacts) -> tuple[PoolFacts, PfFacts]:
    (pool,) = told.pools
    (pf,) = pool.pfs
    return pool, pf


def test_the_facts_of_a_ready_host_are_complete(rig: ProvisionRig) -> None:
    told = gather(rig)
    pool, pf = the(told)
    assert (told.switch.running, told.switch.offload, told.switch.problem) == (True, "on", None)
    assert (pool.bridge_exists, pool.findings, pool.network) == (True, (), "vfmigrate-data")
    assert (pf.problem, pf.pci_id, pf.mode, pf.psid, pf.variant_driver) == (
        None,
        "15b3:1021",
        "switchdev",
        Hardware().psid,
        Hardware().variant_driver,
    )
    assert pool.free == pf.free == len(pf.vfs) > 0
    assert all(vf.migratable for vf in pf.vfs)
    assert told.bridges == (BridgeFacts("br-data", "openvswitch"), BridgeFacts("br-none"))
    assert told.files == (FileFacts("/disk", exists=False), FileFacts("/etc/shadow"))


def test_a_claimed_vf_has_its_guest_and_holder(rig: ProvisionRig) -> None:
    claim = rig.claim(1, mac="52:54:00:00:00:02", state=PLUGGED, expires=None)
    told = gather(rig)
    pool, pf = the(told)
    vf = pf.vfs[1]
    assert (vf.guest, vf.mac, vf.state, vf.moving) == (claim.domain, claim.mac, PLUGGED, False)
    assert vf.holder is not None
    assert pool.free == len(pf.vfs) - 1


def test_vfs_that_arrive_or_leave_are_moving(rig: ProvisionRig) -> None:
    staying = rig.claim(0, state=PLUGGED, expires=None)
    rig.claim(1, state=PREPARED, incoming=True)
    rig.claim(2, state=PREPARED, incoming=True, strategy="failover")
    assert [vf.moving for vf in the(gather(rig))[1].vfs[:3]] == [False, True, False]
    leaving = the(gather(rig, leaving=frozenset({staying.domain})))[1]
    assert (leaving.vfs[0].moving, leaving.moving) == (True, 2)


def test_what_cannot_be_observed_is_none_with_the_problem(rig: ProvisionRig) -> None:
    rig.memory.ovs.down = True
    told = gather(rig)
    pool, pf = the(told)
    assert told.switch.problem is not None
    assert (pool.bridge_exists, pf.problem is not None) == (None, True)
    absent = replace(POOL, pfs=(POOL.pfs[0].parse("0000:99:00.0"),))
    pool, pf = the(gather(rig, absent))
    assert pf.problem == "there is no PCI device 0000:99:00.0"


def test_facts_are_read_as_they_were_sent(rig: ProvisionRig) -> None:
    rig.claim(1, mac="52:54:00:00:00:02", state=PLUGGED, expires=None)
    told = gather(rig)
    assert host_facts.read(json.loads(json.dumps(told.plain()))) == told


def test_unknown_fields_of_a_newer_host_are_ignored(rig: ProvisionRig) -> None:
    plain = json.loads(json.dumps(gather(rig).plain()))
    plain["more"] = plain["pools"][0]["more"] = {"a": 1}
    assert host_facts.read(plain).pools[0].name == "data"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["time"], "noon"),
        (["pools"], {}),
        (["pools"], [7]),
        (["pools", 0, "vlans"], ["42"]),
        (["pools", 0, "vlan"], True),
        (["pools", 0, "pfs", 0, "vfs", 0, "moving"], 1),
        (["switch"], None),
        (["host"], None),
    ],
)
def test_hostile_facts_are_refused(rig: ProvisionRig, path: list[Any], value: object) -> None:
    plain = json.loads(json.dumps(gather(rig).plain()))
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError):
        host_facts.read(plain)
    del place[path[-1]]
    if path[-1] in ("schema", "host", "switch"):
        with pytest.raises(InputError):
            host_facts.read(plain)
