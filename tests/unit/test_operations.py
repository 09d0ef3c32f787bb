# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook operations on a host in memory: what is claimed, prepared, refused and given back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes.card import Card
from tests.fakes.doors import MemoryHost
from tests.fakes.hardware import Hardware
from vfmigrate import claims, domain
from vfmigrate.claims import ClaimStore
from vfmigrate.config import Config, Pool
from vfmigrate.converge import Converger
from vfmigrate.errors import InputError, Refused, Unreachable, UsageError
from vfmigrate.journal import Journal
from vfmigrate.operations import HookOperations
from vfmigrate.pci import PciAddress

PF = PciAddress(0, 1, 0, 0)
POOL = Pool("data", (PF,), "br-data", vlans=frozenset({42, 43}))


def guest(number: int, *vfs: PciAddress, marks: str = "pool='data' vlan='42'", extra: str = "") -> str:
    """A guest with interfaces on these VFs, the nth with MAC …:<number>:<n>, and a mark for each."""
    interfaces, marked = "", ""
    for index, vf in enumerate(vfs):
        mac = f"52:54:00:00:{number:02x}:{index:02x}"
        marked += f"<v:vf mac='{mac}' {marks}/>"
        interfaces += (
            f"<interface type='hostdev' managed='yes'><mac address='{mac}'/><source><address type='pci' "
            f"domain='0x{vf.domain:04x}' bus='0x{vf.bus:02x}' slot='0x{vf.slot:02x}' function='0x{vf.function:x}'/>"
            "</source></interface>"
        )
    metadata = f"<metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>{marked}</v:vfs></metadata>"
    uuid = f"00000000-0000-4000-8000-{number:012d}"
    return (
        f"<domain><name>guest{number}</name><uuid>{uuid}</uuid>{metadata}"
        f"<devices>{interfaces}{extra}</devices></domain>"
    )


ELSEWHERE = PciAddress(0, 0x81, 0, 2)


class Rig:
    """A host in memory with the operations on it."""

    def __init__(self, directory: Path, memory: MemoryHost, pool: Pool = POOL) -> None:
        self.memory = memory
        self.now = 1000.0
        self.store = ClaimStore(directory / "claims", clock=lambda: self.now)
        config = Config({pool.name: pool})
        self.converger = Converger(memory.host, config, self.store)
        self.started: list[str] = []
        self.log = Journal(directory / "no-journal")
        self.operations = HookOperations(
            config, memory.host, self.store, self.converger, self.log, on_started=self.started.append
        )

    def call(self, operation: str, xml: str, extra: str = "-") -> Optional[str]:
        return self.operations.handle(operation, "begin", extra, xml)

    def run(self, xml: str) -> None:
        for operation in ("prepare", "start", "started"):
            assert self.call(operation, xml) is None

    def arrive(self, xml: str) -> str:
        rewritten = self.call("migrate", xml)
        assert rewritten is not None
        self.run(rewritten)
        return rewritten

    def leave(self, xml: str, reason: str = "migrated") -> None:
        self.call("stopped", xml)
        self.call("release", xml, reason)


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    rigs = []

    def make(memory: Optional[MemoryHost] = None, pool: Pool = POOL) -> Rig:
        rigs.append(Rig(tmp_path, memory or MemoryHost(), pool))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.store.close()
        rig.log.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


def test_a_guest_arrives_and_leaves_without_a_trace(rig: Rig) -> None:
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    before = rig.memory.host.survey(PF)
    rewritten = rig.arrive(guest(1, ELSEWHERE))
    (interface,) = domain.read(rewritten).interfaces
    assert interface.address == rig.memory.vfs[-1]
    (claim,) = rig.store.all()
    assert (claim.state, claim.expires, claim.incoming, claim.vlan) == (claims.PLUGGED, None, True, 42)
    (port,) = rig.memory.ovs.ports.values()
    assert port.tag == 42
    assert rig.started == [claim.domain]
    rig.leave(rewritten)
    assert rig.store.all() == []
    assert rig.memory.host.survey(PF) == before


def test_two_vfs_keep_their_own_vlans(rig: Rig) -> None:
    xml = guest(1, ELSEWHERE, PciAddress(0, 0x81, 0, 3)).replace("vlan='42'", "vlan='43'", 1)
    rig.arrive(xml)
    assert {claim.mac: claim.vlan for claim in rig.store.all()} == {
        "52:54:00:00:01:00": 43,
        "52:54:00:00:01:01": 42,
    }
    assert len({claim.vf for claim in rig.store.all()}) == 2


def test_a_restored_guest_gets_the_vf_that_it_had_unless_it_is_taken(rig: Rig) -> None:
    saved = guest(1, rig.memory.vfs[1])
    assert rig.call("restore", saved) == saved
    rig.leave(saved, "failed")
    rig.run(guest(2, rig.memory.vfs[1]))
    again = rig.call("restore", saved)
    assert again is not None
    assert domain.read(again).interfaces[0].address == rig.memory.vfs[-1]


def test_metadata_that_cannot_be_read_keeps_no_vf(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    rig.leave(xml.replace("vlan='42'", "vlan='many'"), "shutdown")
    assert rig.store.all() == []


def test_a_guest_that_never_comes_is_only_promised_a_vf(rig: Rig) -> None:
    rig.call("migrate", guest(1, ELSEWHERE))
    (claim,) = rig.store.all()
    assert (claim.state, claim.expires) == (claims.RESERVED, 1120.0)
    assert rig.memory.ovs.ports == {}


def test_a_second_attempt_replaces_the_first(rig: Rig) -> None:
    rig.call("migrate", guest(1, ELSEWHERE))
    rig.call("migrate", guest(1, ELSEWHERE))
    assert len(rig.store.all()) == 1


def test_no_free_vf_names_the_holders_and_changes_nothing(rig: Rig) -> None:
    for number, vf in enumerate(rig.memory.vfs, 1):
        rig.run(guest(number, vf))
    before = rig.store.all()
    with pytest.raises(Refused) as error:
        rig.call("migrate", guest(9, ELSEWHERE))
    assert "pool 'data' has no free VF" in str(error.value)
    for number in range(1, 5):
        assert f"held by guest 'guest{number}'" in str(error.value)
    assert rig.store.all() == before


def test_all_vfs_of_a_guest_or_none(rig: Rig) -> None:
    for number, vf in enumerate(rig.memory.vfs[:3], 1):
        rig.run(guest(number, vf))
    before = rig.store.all()
    with pytest.raises(Refused, match="no free VF"):
        rig.call("migrate", guest(9, ELSEWHERE, PciAddress(0, 0x81, 0, 3)))
    assert rig.store.all() == before


def test_a_plain_guest_passes_untouched(rig: Rig) -> None:
    unmarked = guest(1, ELSEWHERE).replace("urn:vfmigrate:domain:1", "urn:other")
    assert rig.call("migrate", unmarked) is None
    assert rig.store.all() == []


def test_a_vf_of_no_pool_passes_untouched(make_rig: MakeRig) -> None:
    rig = make_rig(MemoryHost(), replace(POOL, pfs=(PciAddress(0, 2, 0, 0),)))
    xml = guest(1, rig.memory.vfs[0], marks="vlan='42'")
    rig.run(xml)
    rig.leave(xml)
    assert rig.store.all() == []
    assert rig.memory.host.observe(rig.memory.vfs[0]).migratable is False


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        ("pool='prod'", "pool 'prod', which this host does not have: it has data"),
        ("pool='data' vlan='7'", "VLAN 7 is not allowed in pool 'data'"),
        ("pool='data' psid='MT_X'", "the card's PSID is MT_X on the source and MT_0000000892 here"),
        ("pool='data' firmware='1.2.3'", "the card's firmware is 1.2.3 on the source and 28.42.1000 here"),
        ("pool='data' msix='3'", "3 MSI-X vectors on the source"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_moves(rig: Rig, marks: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        rig.call("migrate", guest(1, ELSEWHERE, marks=marks))
    assert rig.store.all() == []


def test_a_card_in_legacy_mode_is_refused(rig: Rig) -> None:
    rig.memory.card.set_eswitch_mode(str(PF), "legacy")
    with pytest.raises(Refused, match="not in switchdev mode"):
        rig.call("migrate", guest(1, ELSEWHERE))
    assert rig.store.all() == []


def test_firmware_that_cannot_migrate_is_refused_with_what_to_run(make_rig: MakeRig) -> None:
    rig = make_rig(MemoryHost(card=Card(("0000:01:00.0",), hardware=Hardware(migration=False))))
    with pytest.raises(Refused, match=r"firmware of PF 0000:01:00\.0 cannot migrate its VFs; run: mstconfig"):
        rig.call("migrate", guest(1, ELSEWHERE))
    assert rig.store.all() == []


def test_a_kernel_without_a_variant_driver_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig(MemoryHost(card=Card(("0000:01:00.0",), hardware=Hardware(variant_driver=None))))
    with pytest.raises(Refused, match="this kernel has no VFIO driver"):
        rig.call("migrate", guest(1, ELSEWHERE))


def test_a_missing_bridge_is_refused(rig: Rig) -> None:
    rig.memory.ovs.bridges.clear()
    with pytest.raises(Refused, match="no bridge 'br-data' on this host; run: ovs-vsctl add-br br-data"):
        rig.call("migrate", guest(1, ELSEWHERE))


def test_open_vswitch_down_is_refused(rig: Rig) -> None:
    rig.memory.ovs.down = True
    with pytest.raises(Unreachable, match="ovsdb-server"):
        rig.call("migrate", guest(1, ELSEWHERE))
    assert rig.store.all() == []


def test_a_vf_in_other_hands_is_refused_at_the_start(rig: Rig) -> None:
    rig.run(guest(1, rig.memory.vfs[0]))
    with pytest.raises(Refused, match="cannot be given to guest 'guest2': it is held by guest 'guest1'"):
        rig.call("prepare", guest(2, rig.memory.vfs[0]))


def test_a_vf_used_by_an_unknown_process_is_not_given_away(rig: Rig) -> None:
    for vf in rig.memory.vfs:
        rig.memory.sysfs.bind(vf, "vfio-pci")
        rig.memory.sysfs.open_groups.add(str(vf))
    with pytest.raises(Refused, match="in use through VFIO by a process that vfmigrate does not know"):
        rig.call("migrate", guest(1, ELSEWHERE))


def test_a_definition_that_names_another_hosts_vf_is_refused_in_words(rig: Rig) -> None:
    with pytest.raises(
        Refused, match=r"names VF 0000:81:00\.2 of pool 'data', which does not exist on this host"
    ):
        rig.call("prepare", guest(1, ELSEWHERE))


def test_cleaning_up_goes_on_when_open_vswitch_is_down(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    rig.memory.ovs.down = True
    rig.leave(xml)
    assert rig.store.all() == []
    rig.memory.ovs.down = False
    rig.converger.converge(rig.memory.vfs[0])
    assert rig.memory.ovs.ports == {}


def test_a_release_forgets_the_guest_whatever_its_xml_says(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    unresolved = guest(1)
    rig.leave(unresolved)
    assert rig.store.all() == []


def test_reconnect_adopts_a_running_guest(rig: Rig) -> None:
    assert rig.call("reconnect", guest(1, rig.memory.vfs[2])) is None
    (claim,) = rig.store.all()
    assert (claim.vf, claim.state, claim.expires, claim.incoming) == (
        rig.memory.vfs[2],
        claims.PLUGGED,
        None,
        False,
    )


def test_adopting_keeps_the_port_of_a_lost_claim(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    (before,) = rig.store.all()
    rig.store.drop(before)
    rig.call("reconnect", xml)
    (after,) = rig.store.all()
    assert after.id == before.id
    assert [port.owner for port in rig.memory.ovs.ports.values()] == [before.id]


def test_adopting_does_not_take_another_guests_port(rig: Rig) -> None:
    rig.run(guest(1, rig.memory.vfs[2]))
    (before,) = rig.store.all()
    rig.store.drop(before)
    rig.call("reconnect", guest(2, rig.memory.vfs[2]))
    (after,) = rig.store.all()
    assert after.id != before.id


def test_a_plain_hostdev_keeps_mac_and_vlan_of_its_mark(rig: Rig) -> None:
    """The mark finds the device by its address on the source, which `migrate` replaces in the device only."""
    mac = "52:54:00:00:01:00"
    source = "<address domain='0x0000' bus='0x81' slot='0x00' function='0x2'/>"
    hostdev = f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{source}</source></hostdev>"
    mark = f"<v:vf mac='{mac}' address='{ELSEWHERE}' pool='data' vlan='43'/>"
    xml = guest(1, extra=hostdev).replace("domain:1'>", f"domain:1'>{mark}")
    rig.arrive(xml)
    (claim,) = rig.store.all()
    assert (claim.mac, claim.set_mac, claim.vlan) == (mac, True, 43)
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [43]


def test_reconnect_never_fails(rig: Rig) -> None:
    rig.memory.ovs.down = True
    assert rig.call("reconnect", guest(1, rig.memory.vfs[2])) is None
    assert rig.call("reconnect", guest(2, rig.memory.vfs[2])) is None


def test_a_pool_interface_needs_a_free_vf_and_is_claimed_when_resolved(rig: Rig) -> None:
    mac = "52:54:00:00:01:00"
    network = f"<interface type='network'><mac address='{mac}'/><source network='data'/></interface>"
    xml = guest(1, extra=network).replace(
        "<v:vfs xmlns:v='urn:vfmigrate:domain:1'>",
        (f"<v:vfs xmlns:v='urn:vfmigrate:domain:1'><v:vf mac='{mac}' pool='data' vlan='43'/>"),
    )
    assert rig.call("migrate", xml) is None
    assert rig.store.all() == []
    resolved = guest(1, rig.memory.vfs[0], marks="pool='data' vlan='43'")
    rig.run(resolved)
    assert [(claim.vf, claim.vlan) for claim in rig.store.all()] == [(rig.memory.vfs[0], 43)]
    for number, vf in enumerate(rig.memory.vfs[1:], 2):
        rig.run(guest(number, vf))
    with pytest.raises(Refused, match="no free VF"):
        rig.call("migrate", xml.replace("guest1", "guest9").replace("-000000000001", "-000000000009"))


STANDBY = (
    "<interface type='bridge'><mac address='52:54:00:00:01:00'/><source bridge='br-data'/><vlan><tag id='42'/></vlan>"
    "<virtualport type='openvswitch'/><model type='virtio'/><teaming type='persistent'/><alias name='ua-x'/>"
    "</interface>"
)


def paired(vf: PciAddress, standby: str = STANDBY, marks: str = "pool='data' vlan='42'") -> str:
    """A guest whose VF has a standby."""
    transient = "</source><teaming type='transient' persistent='ua-x'/>"
    return (
        guest(1, vf, marks=marks)
        .replace("</source>", transient)
        .replace("</devices>", f"{standby}</devices>")
    )


def test_a_pairs_port_is_there_only_while_the_guest_has_the_vf(rig: Rig) -> None:
    xml = paired(rig.memory.vfs[0])
    rig.run(xml)
    assert rig.memory.ovs.ports == {}
    rig.memory.card.set_bus_master(str(rig.memory.vfs[0]), True)
    rig.converger.converge(rig.memory.vfs[0])
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]
    assert rig.converger.survey(PF) == rig.memory.vfs[1:]
    rig.memory.card.set_bus_master(str(rig.memory.vfs[0]), False)
    rig.converger.converge(rig.memory.vfs[0])
    assert rig.memory.ovs.ports == {}


def test_a_pair_without_a_vlan_of_its_own_is_in_its_standbys(rig: Rig) -> None:
    rig.arrive(paired(ELSEWHERE, marks="pool='data'"))
    assert [claim.vlan for claim in rig.store.all()] == [42]


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (
            paired(ELSEWHERE, STANDBY.replace("br-data", "br-gone")),
            "no bridge 'br-gone' .*ovs-vsctl add-br br-gone",
        ),
        (
            paired(
                ELSEWHERE, STANDBY.replace("<virtualport type='openvswitch'/>", "").replace("br-data", "br0")
            ),
            "no bridge 'br0' on this host.* ip link add br0 type bridge",
        ),
        (paired(ELSEWHERE, STANDBY.replace("'42'", "'43'")), "VLAN 42 and its standby 'ua-x' in VLAN 43"),
        (paired(ELSEWHERE, STANDBY.replace("ua-x", "ua-y")), "has no standby"),
        (paired(ELSEWHERE, STANDBY.replace("virtio", "e1000")), "a standby of model 'e1000'"),
        (paired(ELSEWHERE, STANDBY.replace("01:00'", "01:09'")), "a standby with another MAC"),
        (guest(1, ELSEWHERE, marks="pool='data' strategy='replug'"), "by being unplugged .strategy replug."),
        (
            guest(1, ELSEWHERE, marks="pool='data' strategy='failover'"),
            "nothing that stands by; run: vfmigrate failover enable guest1",
        ),
    ],
)
def test_a_vf_that_cannot_cross_in_its_way_is_refused_before_anything_moves(
    rig: Rig, xml: str, told: str
) -> None:
    with pytest.raises(Refused, match=told):
        rig.call("migrate", xml)
    assert rig.store.all() == []


def test_a_pair_in_two_vlans_does_not_start(rig: Rig) -> None:
    with pytest.raises(Refused, match="in VLAN 42 and its standby 'ua-x' in no VLAN"):
        rig.call("prepare", paired(rig.memory.vfs[0], STANDBY.replace("<vlan><tag id='42'/></vlan>", "")))
    assert rig.store.all() == []


def test_a_failover_vf_needs_no_migratable_card(make_rig: MakeRig) -> None:
    rig = make_rig(MemoryHost(card=Card(("0000:01:00.0",), hardware=Hardware(migration=False))))
    rig.arrive(paired(ELSEWHERE))
    (claim,) = rig.store.all()
    assert claim.strategy == "failover"


def test_unknown_operations_and_bad_xml_are_refused(rig: Rig) -> None:
    with pytest.raises(UsageError, match="'explode' is not one we know"):
        rig.call("explode", guest(1))
    with pytest.raises(InputError, match="not well-formed"):
        rig.call("migrate", "<domain>")


def test_secrets_reach_no_log(rig: Rig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    graphics = "<graphics type='vnc' passwd='hunter2'/>"
    rig.arrive(guest(1, ELSEWHERE, extra=graphics))
    with pytest.raises(Refused):
        rig.call("migrate", guest(2, ELSEWHERE, marks="pool='none'", extra=graphics))
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in capsys.readouterr().err + written


def test_xml_that_cannot_be_rewritten_takes_nothing(rig: Rig) -> None:
    """A name of newer Unicode, as the parser that reads takes it and the one that rewrites does not."""
    xml = guest(1, ELSEWHERE).replace("<devices>", "<other fun\u0241='1'/><devices>")
    with pytest.raises(InputError, match="not well-formed"):
        rig.call("migrate", xml)
    assert rig.store.all() == []


def test_a_refused_plain_hostdev_leaves_no_mac(rig: Rig) -> None:
    mac = "52:54:00:00:01:09"
    mark = f"<v:vf mac='{mac}' address='{ELSEWHERE}' pool='data' vlan='42'/></v:vfs>"
    source = f"<address domain='0x0' bus='{ELSEWHERE.bus:#x}' slot='0x0' function='{ELSEWHERE.function:#x}'/>"
    device = (
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{source}</source></hostdev></devices>"
    )
    xml = guest(1).replace("</v:vfs>", mark).replace("</devices>", device)
    card = rig.memory.card
    before = card.ports(card.pfs[0])
    with pytest.raises(InputError, match="not well-formed"):
        rig.call("migrate", xml.replace("<devices>", "<other fun\u0241='1'/><devices>"))
    assert [(port.vf, port.hw_addr) for port in card.ports(card.pfs[0])] == [
        (port.vf, port.hw_addr) for port in before
    ]
    assert rig.store.all() == []
    rig.call("migrate", xml)
    assert mac in {port.hw_addr for port in card.ports(card.pfs[0])}
