# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client may take and give back, on a host in memory, through the requests it sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.fakes.card import Card
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.errors import InputError, Refused, Unreachable, UsageError, VfmigrateError
from vfmigrate.host.links import Link, Traffic
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.client_requests import ClientRequests
from vfmigrate.reservations.departures import Departures
from vfmigrate.rpc.protocol import Request

POOL = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlan=42, vlans=frozenset({43}), mtu=9000)
DOMAIN = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
MAC = "56:6f:1a:2b:00:02"


class ClientsRig(Rig):
    """The rig with reservations, requested as over the socket."""

    def __init__(self, directory: Path, pool: Pool = POOL, **keys: Any) -> None:
        super().__init__(directory, MemoryHost(**keys), Config({"data": pool}, migrating_wait=0))
        self.kept: list[str] = []
        self.asked: list[str] = []
        self.departures = Departures(
            self.store,
            self.log,
            lambda domain: self.asked.append(domain) or True,  # type: ignore[func-returns-value]
        )
        self.client_requests = ClientRequests(
            self.services,
            on_kept=self.kept.append,
            departures=self.departures,
        )

    def ask(self, request: str, /, **arguments: Any) -> dict[str, Any]:
        return self.client_requests.answer(Request(request, arguments))

    def claim(self, **changes: Any) -> dict[str, Any]:
        return self.ask(
            "claim", **{"domain": DOMAIN, "mac": MAC, "strategy": "vfio", "pool": "data", **changes}
        )


MakeClientsRig = Callable[..., ClientsRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeClientsRig]:
    with ExitStack() as rigs:
        yield lambda pool=POOL, **keys: rigs.enter_context(ClientsRig(tmp_path, pool, **keys))


@pytest.fixture
def rig(make_rig: MakeClientsRig) -> ClientsRig:
    return make_rig()


def test_a_client_reserves_a_vf_until_a_time(rig: ClientsRig) -> None:
    answer = rig.claim(name="web", vlan=43)
    (claim,) = rig.store.all()
    assert answer == {"vf": str(claim.vf), "pool": "data", "vlan": 43, "mtu": 9000}
    assert (claim.state, claim.expires, claim.domain_name) == (claim_store.RESERVED, 1120.0, "web")
    assert (claim.mac, claim.vlan, claim.managed, claim.incoming) == (MAC, 43, True, False)
    assert rig.memory.ovs.ports == {}


def test_the_same_interface_has_the_same_vf_on_every_host_while_it_is_free(rig: ClientsRig) -> None:
    vfs = [str(vf) for vf in rig.memory.vfs]
    got = [
        rig.claim(domain=f"00000000-0000-4000-8000-{n:012d}", mac=f"56:6f:1a:2b:00:{n:02x}")["vf"]
        for n in (7, 4, 6, 5)
    ]
    assert got == [vfs[3], vfs[0], vfs[2], vfs[1]]


def test_a_repeated_request_renews_the_claim(rig: ClientsRig) -> None:
    first = rig.claim(vlan=43)
    rig.now += 100
    assert rig.claim()["vf"] == first["vf"]
    (claim,) = rig.store.all()
    assert (claim.vlan, claim.expires) == (43, 1220.0)


def test_a_claim_for_replug_keeps_the_slot_on_source_and_destination(rig: ClientsRig) -> None:
    """On its source the guest's own claim is noted so; on its destination another is made for it."""
    with pytest.raises(
        Refused, match=f"has no VF with MAC {MAC} on this host for which vfmigrate has a claim"
    ):
        rig.claim(strategy="replug", slot="0000:05:00.0")
    vf = rig.claim(strategy="replug", plug=True)["vf"]
    rig.memory.sysfs.open_groups.add(vf)
    assert rig.ask("keep", domain=DOMAIN, mac=MAC) == {"kept": True}
    assert rig.claim(strategy="replug", slot="0000:05:00.0")["vf"] == vf
    (claim,) = rig.store.all()
    assert (claim.slot, claim.expires, claim.state, claim.incoming) == (
        "0000:05:00.0",
        None,
        claim_store.PLUGGED,
        False,
    )
    rig.claim(domain=OTHER, strategy="replug", slot="0000:05:00.0", incoming=True, origin="0000:41:00.2")
    (claim,) = rig.store.of_domain(OTHER)
    assert claim.origin == PciAddress(0, 0x41, 0, 2)
    assert (claim.slot, claim.expires, claim.state, claim.incoming) == (
        "0000:05:00.0",
        1120.0,
        claim_store.RESERVED,
        True,
    )


def test_counters_are_those_of_the_guests_ports(rig: ClientsRig) -> None:
    vf = rig.claim(strategy="replug", plug=True)["vf"]
    rig.claim(domain=OTHER)
    port = rig.memory.devlink.vf_port(rig.memory.pf, rig.memory.vfs.index(PciAddress.parse(vf)))
    assert port is not None
    assert port.ifindex is not None
    rig.memory.links.counted[port.ifindex] = Traffic(rx=7, tx=9)
    assert rig.ask("counters", domain=DOMAIN) == {"ports": [{"mac": MAC, "vf": vf, "sent": 7, "received": 9}]}
    assert rig.ask("counters", domain=OTHER) == {"ports": []}


def test_the_hook_uses_the_vf_that_a_client_reserved(rig: ClientsRig) -> None:
    vf = PciAddress.parse(rig.claim(vlan=43)["vf"])
    operations = rig.hook_handler
    xml = (
        f"<domain><name>web</name><uuid>{DOMAIN}</uuid><devices><interface type='hostdev' managed='yes'>"
        f"<mac address='{MAC}'/><source><address type='pci' domain='0x0000' bus='0x01' slot='0x{vf.slot:02x}' "
        f"function='0x{vf.function}'/></source></interface></devices></domain>"
    )
    for operation in ("prepare", "start"):
        operations.handle(operation, "begin", "-", xml)
    (claim,) = rig.store.all()
    assert (claim.vf, claim.state, claim.expires, claim.vlan) == (vf, claim_store.PLUGGED, None, 43)
    assert (claim.domain_name, claim.strategy) == ("web", "vfio")
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [43]


def test_a_vf_of_a_running_guest_is_left_as_it_is(rig: ClientsRig) -> None:
    rig.claim()
    (claim,) = rig.store.all()
    rig.store.change(claim, state=claim_store.PLUGGED, expires=None)
    before = rig.store.all()
    rig.claim(vlan=43)
    assert rig.store.all() == before
    with pytest.raises(Refused, match="already has VF"):
        rig.claim(vf=str(next(vf for vf in rig.memory.vfs if vf != claim.vf)))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"domain": "web"}, InputError),
        ({"domain": f"{DOMAIN}/../x"}, InputError),
        ({"mac": "56:6f"}, InputError),
        ({"mac": None}, UsageError),
        ({"strategy": "teleport"}, InputError),
        ({"pool": None}, InputError),
        ({"pool": 7}, UsageError),
        ({"vlan": 4095}, UsageError),
        ({"vlan": "42"}, UsageError),
        ({"vlan": True}, UsageError),
        ({"vlan": 100}, Refused),
        ({"pool": "other"}, Refused),
        ({"vf": "0000:99:00.1"}, Refused),
        ({"vf": "x"}, InputError),
        ({"plug": "yes"}, UsageError),
    ],
)
def test_an_invalid_request_leaves_no_claim(
    rig: ClientsRig, changes: dict[str, Any], error: type[VfmigrateError]
) -> None:
    with pytest.raises(error):
        rig.claim(**changes)
    assert rig.store.all() == []


def test_a_vf_of_no_pool_gets_an_empty_answer(rig: ClientsRig) -> None:
    assert rig.claim(pool=None, vf="0000:99:00.1") == {}


def test_a_vf_of_another_guest_or_process_is_refused(rig: ClientsRig) -> None:
    vf = rig.claim()["vf"]
    with pytest.raises(Refused, match="reserved for guest"):
        rig.claim(domain=OTHER, vf=vf)
    free = next(vf for vf in rig.memory.vfs if rig.store.get(vf) is None)
    rig.memory.sysfs.bind(free, "vfio-pci")
    rig.memory.sysfs.open_groups.add(str(free))
    with pytest.raises(Refused, match="it is held by process 4711"):
        rig.claim(domain=OTHER, vf=str(free))


def test_a_full_pool_is_refused_with_the_holders(make_rig: MakeClientsRig) -> None:
    rig = make_rig(vfs=1)
    rig.claim(name="web")
    with pytest.raises(Refused, match=r"no free VF on this host: .* reserved for guest 'web'"):
        rig.claim(domain=OTHER)


def test_a_card_that_cannot_migrate_keeps_no_claim(make_rig: MakeClientsRig) -> None:
    card = Card(("0000:01:00.0",), hardware=Hardware(migration=False))
    rig = make_rig(card=card)
    with pytest.raises(Refused, match="cannot migrate its VFs"):
        rig.claim()
    assert rig.store.all() == []
    assert rig.claim(strategy="failover")["pool"] == "data"


def test_a_switch_that_is_down_or_lacks_the_bridge_is_refused(rig: ClientsRig) -> None:
    rig.memory.ovs.bridges.clear()
    with pytest.raises(Refused, match="no bridge 'br-data'"):
        rig.claim()
    rig.memory.ovs.down = True
    with pytest.raises(Unreachable):
        rig.claim()
    assert rig.store.all() == []


# -- plugged into a running guest


def test_a_vf_for_a_running_guest_is_plugged_at_once_and_kept(rig: ClientsRig) -> None:
    vf = PciAddress.parse(rig.claim(plug=True, strategy="replug", unmanaged=True)["vf"])
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]
    assert rig.ask("keep", domain=DOMAIN, mac=MAC) == {"kept": False}  # nobody has it yet
    rig.memory.sysfs.open_groups.add(str(vf))
    assert rig.ask("keep", domain=DOMAIN, mac=MAC) == {"kept": True}
    (claim,) = rig.store.all()
    assert (claim.state, claim.expires) == (claim_store.PLUGGED, None)
    assert rig.kept == [DOMAIN]


def test_keep_without_a_claim_keeps_nothing(rig: ClientsRig) -> None:
    assert rig.ask("keep", domain=DOMAIN, mac=MAC) == {"kept": False}


def test_a_vf_that_a_guest_holds_is_not_given_back(rig: ClientsRig) -> None:
    vf = rig.claim(plug=True)["vf"]
    rig.memory.sysfs.open_groups.add(vf)
    rig.ask("keep", domain=DOMAIN, mac=MAC)
    assert rig.ask("give_back", domain=DOMAIN) == {"vfs": []}
    rig.memory.sysfs.open_groups.clear()
    assert rig.ask("give_back", domain=DOMAIN, mac="56:6f:1a:2b:00:03") == {"vfs": []}
    assert rig.ask("give_back", domain=OTHER) == {"vfs": []}
    assert rig.ask("give_back", domain=DOMAIN, mac=MAC) == {"vfs": [vf]}
    assert (rig.store.all(), rig.memory.ovs.ports) == ([], {})
    assert rig.ask("give_back", domain=DOMAIN, mac=MAC) == {"vfs": []}


def test_a_departing_guest_whose_vf_was_unplugged_is_watched(rig: ClientsRig) -> None:
    vf = rig.claim(plug=True)["vf"]
    rig.memory.sysfs.open_groups.add(vf)
    rig.ask("keep", domain=DOMAIN, mac=MAC)
    rig.memory.sysfs.open_groups.clear()
    rig.ask("give_back", domain=DOMAIN, mac=MAC)
    rig.ask("departure", domain=DOMAIN)
    rig.now += 1000
    rig.departures.look({DOMAIN})
    assert rig.asked == [DOMAIN]


# -- migration


def arriving(rig: ClientsRig, number: int, **changes: Any) -> dict[str, Any]:
    vf = str(rig.memory.vfs[number])
    domain = f"00000000-0000-4000-8000-{number:012d}"
    return rig.claim(domain=domain, mac=f"56:6f:1a:2b:01:{number:02x}", vf=vf, incoming=True, **changes)


def test_a_client_reserves_a_vf_for_an_arriving_guest_and_libvirts_hook_takes_that_vf(
    rig: ClientsRig,
) -> None:
    arriving(rig, 1)
    (claim,) = rig.store.all()
    assert (claim.vf, claim.incoming) == (rig.memory.vfs[1], True)
    operations = rig.hook_handler
    xml = (
        f"<domain><name>web</name><uuid>{claim.domain}</uuid><metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>"
        f"<v:vf mac='{claim.mac}' pool='data'/></v:vfs></metadata><devices><interface type='hostdev' "
        f"managed='yes'><mac address='{claim.mac}'/><source><address domain='0x0000' bus='0x01' slot='0x00' "
        "function='0x7'/></source></interface></devices></domain>"
    )
    operations.handle("migrate", "begin", "-", xml)
    assert [claim.vf for claim in rig.store.all()] == [rig.memory.vfs[1]]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"psid": "MT_0000000001"}, "PSID is MT_0000000001 on the source"),
        ({"firmware": "22.1.1"}, "firmware is 22.1.1 on the source"),
        ({"msix": 3}, "3 MSI-X vectors on the source"),
    ],
)
def test_an_arriving_guest_without_a_compatible_vf_is_refused(
    rig: ClientsRig, facts: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        arriving(rig, 1, **facts)
    assert rig.store.all() == []


def test_a_fifth_arriving_guest_of_a_card_is_refused(make_rig: MakeClientsRig) -> None:
    rig = make_rig(vfs=8)
    for number in range(4):
        arriving(rig, number)
    with pytest.raises(Refused, match=r"4 VFs of PF 0000:01:00.0 already migrating"):
        arriving(rig, 5)
    arriving(rig, 5, strategy="failover")
    arriving(rig, 3)  # asked again
    (first, *_) = rig.store.all()
    rig.store.change(first, incoming=False, expires=None)
    arriving(rig, 6)


def held(rig: ClientsRig, number: int) -> Claim:
    claim = Claim(
        rig.memory.vfs[number],
        "data",
        DOMAIN,
        "web",
        claim_store.PLUGGED,
        0.0,
        mac=f"56:6f:1a:2b:02:{number:02x}",
    )
    return rig.store.put(claim)


def test_departure_lists_the_vfs_that_migrate_with_their_state(make_rig: MakeClientsRig) -> None:
    rig = make_rig(vfs=8)
    assert rig.ask("departure", domain=DOMAIN) == {"vfs": []}
    moving = [held(rig, number) for number in range(4)]
    for claim in moving:
        rig.converger.converge(claim.vf)
    rig.store.put(replace(held(rig, 5), strategy="failover"))
    for _ in range(2):
        assert rig.ask("departure", domain=DOMAIN) == {"vfs": [str(claim.vf) for claim in moving]}
    held(rig, 6)
    with pytest.raises(Refused, match=r"has 5 VFs of PF 0000:01:00.0"):
        rig.ask("departure", domain=DOMAIN)


def test_departure_is_refused_where_the_card_cannot_migrate(make_rig: MakeClientsRig) -> None:
    rig = make_rig(card=Card(("0000:01:00.0",), hardware=Hardware(migration=False)))
    held(rig, 0)
    with pytest.raises(Refused, match="cannot migrate its VFs"):
        rig.ask("departure", domain=DOMAIN)


def test_pools_lists_vfs_and_cards(rig: ClientsRig) -> None:
    rig.claim()
    (pool,) = rig.ask("pools")["pools"]
    card = rig.memory.host.card(rig.memory.pf)
    assert (pool["name"], pool["vfs"], pool["free"]) == ("data", 4, 3)
    assert pool["cards"] == [
        {
            "pf": "0000:01:00.0",
            "psid": card.psid,
            "firmware": card.firmware,
            "migrating": 0,
            "max_migrating": 4,
        }
    ]


def free(rig: ClientsRig) -> int:
    (pool,) = rig.ask("pools")["pools"]
    return int(pool["free"])


def test_a_pool_counts_what_could_be_given(rig: ClientsRig) -> None:
    process, container, up, expired = rig.memory.vfs
    assert free(rig) == 4
    rig.memory.sysfs.bind(process, "vfio-pci")
    rig.memory.sysfs.open_groups.add(str(process))
    assert free(rig) == 3
    for vf in (container, up):
        rig.memory.sysfs.bind(vf, rig.memory.card.hardware.host_driver)
    rig.memory.sysfs.in_containers.add(str(container))
    assert free(rig) == 2
    (name,) = rig.memory.sysfs.netdevs(up)
    link = rig.memory.links.find(name)
    assert link is not None
    rig.memory.links.set_up(link.index)
    assert free(rig) == 1
    rig.claim(pool=None, vf=str(expired))
    assert free(rig) == 0
    rig.now += 121
    assert free(rig) == 1


@pytest.mark.parametrize("kept", ["ready", "host"])
def test_a_vf_with_an_interface_that_is_up_is_the_hosts_unless_free_vfs_is_host(
    make_rig: MakeClientsRig, kept: str
) -> None:
    rig = make_rig(replace(POOL, free_vfs=kept))
    vf = rig.memory.vfs[0]
    rig.memory.sysfs.bind(vf, rig.memory.card.hardware.host_driver)
    (netdev,) = (netdev for netdev, _ in rig.memory.card.netdevs(str(vf)))
    rig.memory.links.links[netdev.ifindex] = Link(netdev.ifindex, netdev.name, True, 1500, MAC)
    wanted = {"pool": None, "vf": str(vf), "strategy": "replug", "unmanaged": True, "plug": True}
    if kept == "ready":
        with pytest.raises(Refused, match="in use by this host as"):
            rig.claim(**wanted)
    else:
        rig.memory.links.ip_addresses = {netdev.ifindex: ["192.0.2.1/24"]}
        with pytest.raises(Refused, match=rf"in use by this host as {netdev.name} \(192\.0\.2\.1/24\)"):
            rig.claim(**wanted)
        rig.memory.links.ip_addresses.clear()
        rig.claim(**wanted)
        assert rig.memory.sysfs.is_vfio(rig.memory.sysfs.driver(vf))
