# SPDX-License-Identifier: GPL-2.0-or-later
"""The devlink door, over a socket to a fake kernel."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Callable

import pytest

from tests.fakes.card import Card
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.hardware import DevlinkPort, Hardware, Netdev
from vfmigrate.cards import mlx5
from vfmigrate.errors import HostError, InputError
from vfmigrate.host.devlink import Devlink, NoDevlinkError
from vfmigrate.host.devlink_messages import Port
from vfmigrate.model.pci import PciAddress
from vfmigrate.polling import poll

PF = PciAddress.parse("0000:e1:00.0")
SECOND_PF = PciAddress.parse("0000:e1:00.1")
ABSENT = PciAddress.parse("0000:99:00.0")
MAC = "52:54:00:12:34:56"


def switched(hardware: Hardware = Hardware()) -> Card:  # noqa: B008  (frozen)
    """A card of two PFs with two unbound VFs each, both in switchdev mode."""
    card = Card((str(PF), str(SECOND_PF)), hardware=hardware)
    for pf in card.pfs:
        card.autoprobe(pf, "0")
        card.numvfs(pf, "2")
        card.set_eswitch_mode(pf, "switchdev")
    return card


@pytest.fixture
def card() -> Card:
    return switched()


@pytest.fixture
def devlink(card: Card) -> Iterator[Devlink]:
    yield from door_to(card)


def door_to(card: Card) -> Iterator[Devlink]:
    with DevlinkServer(card) as server:
        door = Devlink(connect=server.connect, remedies=mlx5.VENDOR.kernel_remedies)
        yield door
        door.close()


def test_the_eswitch_mode_is_read_and_set(devlink: Devlink, card: Card) -> None:
    assert devlink.eswitch_mode(PF) == "switchdev"
    devlink.set_eswitch_mode(PF, "legacy")
    assert devlink.eswitch_mode(PF) == "legacy"
    assert card.eswitch_mode(str(SECOND_PF)) == "switchdev"


def test_a_busy_eswitch_is_an_error_with_a_remedy(devlink: Devlink, card: Card) -> None:
    card.occupy_eswitch(str(PF), 1)
    with pytest.raises(HostError) as caught:
        devlink.set_eswitch_mode(PF, "legacy")
    assert caught.value.problem == (
        "devlink: cannot set the eswitch mode to legacy of PF 0000:e1:00.0: "
        "mlx5_core: Can't change mode, E-Switch is busy"
    )
    assert "Open vSwitch" in caught.value.remedy


def test_an_unknown_eswitch_mode_is_refused(devlink: Devlink, card: Card) -> None:
    sent = len(card.trace)
    with pytest.raises(InputError, match="'switch' is not an eswitch mode; use one of legacy, switchdev"):
        devlink.set_eswitch_mode(PF, "switch")
    assert len(card.trace) == sent


def test_ports_are_those_of_one_pf(devlink: Devlink) -> None:
    assert [(port.flavour, port.vf) for port in devlink.ports(PF)] == [
        ("physical", None),
        ("pcivf", 0),
        ("pcivf", 1),
    ]
    assert devlink.vf_ports(PF)[1] == Port(
        index=2,
        flavour="pcivf",
        vf=1,
        pf=0,
        controller=0,
        external=False,
        ifindex=102,
        netdev="enp225s0f0npf0vf1",
        hw_addr="00:00:00:00:00:00",
        migratable=False,
    )
    assert {port.pf for port in devlink.vf_ports(SECOND_PF).values()} == {1}


def test_a_kernel_that_lists_the_ports_of_all_devices(card: Card) -> None:
    with DevlinkServer(card, narrows=False) as server:
        door = Devlink(connect=server.connect)
        assert [port.index for port in door.ports(SECOND_PF)] == [131071, 65537, 65538]
        assert {port.pf for port in door.vf_ports(SECOND_PF).values()} == {1}
        assert door.ports(ABSENT) == []
        door.close()


def test_vf_ports_exist_in_switchdev_mode_only(devlink: Devlink) -> None:
    devlink.set_eswitch_mode(PF, "legacy")
    assert devlink.vf_ports(PF) == {}
    assert len(devlink.ports(PF)) == 1


def test_a_port_with_a_known_index_is_requested_alone(card: Card) -> None:
    with DevlinkServer(card) as server:
        door = Devlink(connect=server.connect)
        assert [door.vf_port(PF, number) for number in (0, 1)] == list(door.vf_ports(PF).values())
        server.requests.clear()
        assert door.vf_port(PF, 1) == door.vf_ports(PF)[1]
        door.close()
        alone, listing = server.requests
    assert not alone.flags & 0x300  # NLM_F_DUMP
    assert listing.flags & 0x300  # NLM_F_DUMP


def test_a_recreated_port_is_found(devlink: Devlink) -> None:
    assert devlink.vf_port(PF, 1) is not None
    devlink.set_eswitch_mode(PF, "legacy")
    assert devlink.vf_port(PF, 1) is None
    devlink.set_eswitch_mode(PF, "switchdev")
    assert devlink.vf_port(PF, 1) == devlink.vf_ports(PF)[1]
    assert devlink.vf_port(PF, 7) is None


def test_a_device_without_devlink_has_no_ports(devlink: Devlink) -> None:
    assert devlink.ports(ABSENT) == []
    assert devlink.vf_ports(ABSENT) == {}


def test_a_representor_that_does_not_exist_yet(card: Card) -> None:
    class Settling:
        def uplink(self, pf: str) -> Netdev:
            return Netdev(3, f"uplink of {pf}")

        def representor(self, pf: str, vf: int) -> None:
            """None has appeared yet."""

    card = Card([str(PF)], netdevs=Settling())
    card.numvfs(str(PF), "1")
    card.set_eswitch_mode(str(PF), "switchdev")
    for devlink in door_to(card):
        port = devlink.vf_ports(PF)[0]
    assert (port.netdev, port.ifindex) == (None, None)


def test_ports_of_another_controller_are_left_out() -> None:
    class Dpu(Card):
        def ports(self, pf: str) -> list[DevlinkPort]:
            theirs = DevlinkPort(
                77, "pcivf", 0, 0, Netdev(9, "c1pf0vf0"), MAC, False, external=True, controller=1
            )
            return [theirs, *super().ports(pf), theirs]

    card = Dpu([str(PF)])
    card.numvfs(str(PF), "1")
    card.set_eswitch_mode(str(PF), "switchdev")
    for devlink in door_to(card):
        assert [port.index for port in devlink.ports(PF)] == [77, 65535, 1, 77]
        assert {vf: port.index for vf, port in devlink.vf_ports(PF).items()} == {0: 1}


def test_hw_addr_and_migratable_of_a_port_are_set(devlink: Devlink, card: Card) -> None:
    devlink.set_port_function(PF, 1, migratable=True)
    devlink.set_port_function(PF, 1, hw_addr=MAC)
    port = devlink.vf_ports(PF)[0]
    assert (port.hw_addr, port.migratable) == (MAC, True)
    devlink.set_port_function(PF, 1, hw_addr="52:54:00:00:00:01", migratable=False)
    port = devlink.vf_ports(PF)[0]
    assert (port.hw_addr, port.migratable) == ("52:54:00:00:00:01", False)
    assert card.ports(str(SECOND_PF))[1].hw_addr == "00:00:00:00:00:00"


def test_a_port_function_without_changes(devlink: Devlink, card: Card) -> None:
    sent = len(card.trace)
    devlink.set_port_function(PF, 1)
    assert len(card.trace) == sent


@pytest.mark.parametrize("hw_addr", ["", "52:54:00", "52-54-00-12-34-56", "52:54:00:12:34:5g", f"{MAC}:01"])
def test_a_malformed_mac_is_refused(devlink: Devlink, card: Card, hw_addr: str) -> None:
    sent = len(card.trace)
    with pytest.raises(InputError, match="is not a MAC address"):
        devlink.set_port_function(PF, 1, hw_addr=hw_addr)
    assert len(card.trace) == sent


def test_the_variant_driver_finds_the_flag_that_was_set_before_it_bound(devlink: Devlink, card: Card) -> None:
    first, second = card.vf(0), card.vf(1)
    devlink.set_port_function(PF, 1, migratable=True)
    for vf in (first, second):
        card.driver_override(vf, "mlx5_vfio_pci")
        card.drivers_probe(vf)
    devlink.set_port_function(PF, 2, migratable=True)
    assert card.function(first).migratable_at_bind is True
    assert card.function(second).migratable_at_bind is False


@pytest.mark.parametrize(
    ("hardware", "text", "remedy"),
    [
        (Hardware(migration=False), "Device doesn't support migration", "VF_MIGRATION_MODE=2"),
        (Hardware(vhca_management=False), "Device doesn't support VHCA management", "firmware"),
    ],
)
def test_setting_the_flag_of_a_card_that_cannot_migrate_is_an_error(
    hardware: Hardware, text: str, remedy: str
) -> None:
    for devlink in door_to(switched(hardware)):
        with pytest.raises(HostError) as caught:
            devlink.set_port_function(PF, 1, migratable=True)
    assert caught.value.problem.endswith(f"port 1 of PF 0000:e1:00.0: mlx5_core: {text}")
    assert remedy in caught.value.remedy


def test_a_card_without_the_flag_does_not_show_it() -> None:
    for devlink in door_to(switched(Hardware(migration=False))):
        assert devlink.vf_ports(PF)[0].migratable is None


def test_the_flag_of_a_vf_that_the_host_uses(devlink: Devlink, card: Card) -> None:
    vf = card.vf(0)
    card.driver_override(vf, "mlx5_core")
    card.drivers_probe(vf)
    with pytest.raises(
        HostError, match="Failed setting HCA migratable cap; unbind the VF from its driver first"
    ):
        devlink.set_port_function(PF, 1, migratable=True)


@pytest.mark.parametrize(
    ("port", "hw_addr", "migratable", "told"),
    [
        (65535, None, True, "migratable function attribute supported for VFs only"),
        (65535, MAC, None, "Port does not support function attributes"),
        (1, "01:00:5e:00:00:01", None, "Non-unicast hardware address unsupported"),
        (99, MAC, None, "No such device"),
    ],
)
def test_the_message_of_the_kernel_is_shown(
    devlink: Devlink, port: int, hw_addr: str, migratable: bool, told: str
) -> None:
    with pytest.raises(HostError) as caught:
        devlink.set_port_function(PF, port, hw_addr=hw_addr, migratable=migratable)
    assert caught.value.problem.endswith(f"on port {port} of PF 0000:e1:00.0: {told}")


def test_psid_and_firmware_are_read() -> None:
    hardware = Hardware(psid="MT_0000000359", firmware="28.41.1000", stored_firmware="28.43.2026")
    for devlink in door_to(switched(hardware)):
        info = devlink.info(PF)
    assert info.driver == "mlx5_core"
    assert info.psid == "MT_0000000359"
    assert info.firmware == "28.41.1000"
    assert info.stored_firmware == "28.43.2026"


def test_the_host_side_of_a_dpu_does_not_manage_the_eswitch() -> None:
    for devlink in door_to(Card((str(PF),), hardware=Hardware(eswitch_manager=False))):
        with pytest.raises(
            HostError, match=r"cannot read the eswitch mode of PF 0000:e1:00\.0: Operation not supp"
        ) as e:
            devlink.eswitch_mode(PF)
    assert not isinstance(e.value, NoDevlinkError)


@pytest.mark.parametrize("ask", [Devlink.eswitch_mode, Devlink.info])
def test_a_device_without_devlink_is_an_error(devlink: Devlink, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(NoDevlinkError, match=r"PF 0000:99:00.0: No such device; see 'devlink port show'"):
        ask(devlink, ABSENT)


def test_a_kernel_without_devlink_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def refuse() -> None:
        length, family, flags, sequence, port = struct.unpack_from("=IHHII", request := ours.recv(1 << 16))
        assert (length, family, flags) == (len(request), 0x10, 5)
        ours.send(struct.pack("=IHHIIi", 36, 2, 0x100, sequence, port, -errno.ENOENT) + request[:16])

    kernel = threading.Thread(target=refuse)
    kernel.start()
    door = Devlink(connect=lambda: theirs)
    with pytest.raises(
        HostError, match="this kernel has no devlink: No such file or directory; load the card's"
    ):
        door.eswitch_mode(PF)
    door.close()
    kernel.join()
    ours.close()


def test_threads_that_ask_at_the_same_time_get_their_own_answers(devlink: Devlink, card: Card) -> None:
    failures: list[str] = []

    def look(pf: PciAddress) -> None:
        position = card.pfs.index(str(pf))
        for _ in range(50):
            seen = {port.pf for port in devlink.vf_ports(pf).values()}
            if seen != {position}:
                failures.append(f"{pf} got the ports of {seen}")

    threads = [threading.Thread(target=look, args=(pf,)) for pf in (PF, SECOND_PF) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


SLOW_S = 20.0
#: much less than SLOW_S, much more than an answer takes
SOON_S = 10.0

QUESTIONS: dict[str, Callable[[Devlink], object]] = {
    "mode": lambda door: door.eswitch_mode(PF),
    "ports": lambda door: door.vf_ports(PF),
    "port": lambda door: door.vf_port(PF, 1),
    "port function": lambda door: door.set_port_function(PF, 1, hw_addr=MAC),
    "mode change": lambda door: door.set_eswitch_mode(PF, "legacy"),
    "versions": lambda door: door.info(PF),
}


@contextmanager
def meanwhile(work: Callable[[], object], server: DevlinkServer) -> Iterator[None]:
    """Something that another thread does; the body begins when the fake kernel has its request."""

    def until_closed() -> None:
        with suppress(HostError):
            work()

    seen = len(server.requests)
    thread = threading.Thread(target=until_closed)
    thread.start()
    while len(server.requests) == seen:
        time.sleep(0.001)
    yield
    server.close()  # answers at once what waits
    thread.join()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_card_that_is_slow_delays_no_other(card: Card, question: str) -> None:
    server = DevlinkServer(card)
    door = Devlink(connect=server.connect)
    server.delays[str(SECOND_PF)] = SLOW_S

    with meanwhile(lambda: door.vf_ports(SECOND_PF), server):
        begun = time.monotonic()
        QUESTIONS[question](door)
        assert time.monotonic() - begun < SOON_S
    door.close()


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "mode change"])
def test_a_mode_change_delays_no_other_card(card: Card, question: str) -> None:
    server = DevlinkServer(card)
    door = Devlink(connect=server.connect)
    server.mode_change = SLOW_S

    with meanwhile(lambda: door.set_eswitch_mode(SECOND_PF, "legacy"), server):
        begun = time.monotonic()
        QUESTIONS[question](door)
        assert time.monotonic() - begun < SOON_S
    door.close()


def test_a_kernel_that_cannot_list_one_device_is_asked_port_by_port(card: Card) -> None:
    server = DevlinkServer(card, narrows=False)
    door = Devlink(connect=server.connect)
    door.ports(SECOND_PF)  # as at the daemon's start; shows the ports of all
    server.delays[str(SECOND_PF)] = SLOW_S
    with meanwhile(lambda: door.vf_port(SECOND_PF, 0), server):
        begun = time.monotonic()
        assert list(door.vf_ports(PF, 2)) == [0, 1]
        assert door.vf_port(PF, 1) is not None
        door.set_eswitch_mode(PF, "legacy")
        assert door.vf_port(PF, 1) is None
        assert door.vf_ports(PF, 2) == {}
        assert time.monotonic() - begun < SOON_S
    door.close()


def test_new_vfs_are_found_by_a_kernel_that_cannot_list_one_device(card: Card) -> None:
    with DevlinkServer(card, narrows=False) as server:
        door = Devlink(connect=server.connect)
        assert list(door.vf_ports(PF, 2)) == [0, 1]
        card.numvfs(str(PF), "0")
        card.numvfs(str(PF), "3")
        assert list(door.vf_ports(PF, 3)) == [0, 1, 2]
        door.close()


def test_a_card_that_does_not_answer_is_waited_for_as_long_as_agreed(card: Card) -> None:
    server = DevlinkServer(card)
    door = Devlink(connect=server.connect, timeout=0.2)
    server.delays[str(PF)] = SLOW_S
    for _ in range(2):  # the second one waits for the first to be answered, and no longer either
        begun = time.monotonic()
        with pytest.raises(HostError, match=r"did not answer a netlink request within 0\.2 seconds"):
            door.eswitch_mode(PF)
        assert time.monotonic() - begun < SOON_S
    server.close()
    door.close()


def test_the_connection_of_a_card_that_is_gone_is_closed(card: Card) -> None:
    with DevlinkServer(card) as server:
        door = Devlink(connect=server.connect)
        for pf in (PF, SECOND_PF):
            door.eswitch_mode(pf)
            door.vf_ports(pf)
        assert server.clients == 2
        card.unbind("mlx5_core", str(SECOND_PF))
        with pytest.raises(HostError, match="No such device"):
            door.eswitch_mode(SECOND_PF)
        wait_until(lambda: server.clients == 1)
        for _ in range(3):
            door.set_eswitch_mode(PF, "legacy")
        wait_until(lambda: server.clients == 1)
        card.bind("mlx5_core", str(SECOND_PF))
        assert door.eswitch_mode(SECOND_PF) == "legacy"
        door.close()
        wait_until(lambda: server.clients == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    assert poll(lambda: condition() or None, 10, 0.01)


def test_ports_are_found_again_after_the_card_came_back(devlink: Devlink, card: Card) -> None:
    assert devlink.vf_port(PF, 1) is not None
    card.unbind("mlx5_core", str(PF))
    assert devlink.vf_port(PF, 1) is None
    card.bind("mlx5_core", str(PF))
    card.numvfs(str(PF), "2")
    card.set_eswitch_mode(str(PF), "switchdev")
    assert devlink.vf_port(PF, 1) == devlink.vf_ports(PF)[1]
