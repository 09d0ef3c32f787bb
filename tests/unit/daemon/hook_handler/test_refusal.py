# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, in which words, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.card import Card
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, MakeRig, Rig
from vfmigrate.errors import InputError, Refused, Unreachable, UsageError
from vfmigrate.model.pci import PciAddress


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


def test_a_guest_that_cannot_get_all_its_vfs_gets_none(rig: Rig) -> None:
    for number, vf in enumerate(rig.memory.vfs[:3], 1):
        rig.run(guest(number, vf))
    before = rig.store.all()
    with pytest.raises(Refused, match="no free VF"):
        rig.call("migrate", guest(9, ELSEWHERE, PciAddress(0, 0x81, 0, 3)))
    assert rig.store.all() == before


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        ("pool='prod'", "pool 'prod', which this host does not have: its pools are data"),
        ("pool='data' vlan='7'", "VLAN 7 is not allowed in pool 'data'"),
        (
            "pool='data' psid='MT_X'",
            "the card's PSID is MT_X on the source and MT_0000000892 on the destination",
        ),
        (
            "pool='data' firmware='1.2.3'",
            "the card's firmware is 1.2.3 on the source and 28.42.1000 on the destination",
        ),
        ("pool='data' msix='3'", "3 MSI-X vectors on the source"),
    ],
)
def test_marks_that_cannot_work_are_refused_at_migrate(rig: Rig, marks: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        rig.call("migrate", guest(1, ELSEWHERE, marks=marks))
    assert rig.store.all() == []


def test_a_card_in_legacy_mode_is_refused(rig: Rig) -> None:
    rig.memory.card.set_eswitch_mode(str(PF), "legacy")
    with pytest.raises(Refused, match="not in switchdev mode"):
        rig.call("migrate", guest(1, ELSEWHERE))
    assert rig.store.all() == []


def test_firmware_that_cannot_migrate_is_refused_with_a_remedy(make_rig: MakeRig) -> None:
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


def test_a_vf_of_another_guest_is_refused_at_prepare(rig: Rig) -> None:
    rig.run(guest(1, rig.memory.vfs[0]))
    with pytest.raises(Refused, match="cannot be given to guest 'guest2': it is held by guest 'guest1'"):
        rig.call("prepare", guest(2, rig.memory.vfs[0]))


def test_a_vf_that_a_process_holds_is_not_claimed(rig: Rig) -> None:
    for vf in rig.memory.vfs:
        rig.memory.sysfs.bind(vf, "vfio-pci")
        rig.memory.sysfs.open_groups.add(str(vf))
    with pytest.raises(Refused, match=r"0000:01:00\.2 held by process 4711; "):
        rig.call("migrate", guest(1, ELSEWHERE))


def test_a_vf_that_does_not_exist_on_this_host_is_refused(rig: Rig) -> None:
    with pytest.raises(
        Refused, match=r"names VF 0000:81:00\.2 of pool 'data', which does not exist on this host"
    ):
        rig.call("prepare", guest(1, ELSEWHERE))


def test_unknown_operations_and_bad_xml_are_refused(rig: Rig) -> None:
    with pytest.raises(UsageError, match="unknown hook operation of libvirt: 'explode'"):
        rig.call("explode", guest(1))
    with pytest.raises(InputError, match="not well-formed"):
        rig.call("migrate", "<domain>")


def test_passwords_of_the_xml_are_not_logged(
    rig: Rig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graphics = "<graphics type='vnc' passwd='hunter2'/>"
    rig.arrive(guest(1, ELSEWHERE, extra=graphics))
    with pytest.raises(Refused):
        rig.call("migrate", guest(2, ELSEWHERE, marks="pool='none'", extra=graphics))
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in capsys.readouterr().err + written


def test_xml_that_cannot_be_rewritten_leaves_no_claim(rig: Rig) -> None:
    """A name of newer Unicode, as the parser that reads takes it and the one that rewrites does not."""
    xml = guest(1, ELSEWHERE).replace("<devices>", "<other fun\u0241='1'/><devices>")
    with pytest.raises(InputError, match="not well-formed"):
        rig.call("migrate", xml)
    assert rig.store.all() == []


def test_a_refused_plain_hostdev_leaves_no_mac_on_the_vf(rig: Rig) -> None:
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
