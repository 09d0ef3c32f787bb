# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake card where no observation of a real kernel's sysfs reaches: devlink, several PFs, what goes with what."""

from __future__ import annotations

import errno

import pytest

from tests.fakes.card import Card
from tests.fakes.hardware import Hardware
from tests.fakes.kstrto import boolean, u16

PF, SECOND_PF = "0000:e1:00.0", "0000:e1:00.1"


@pytest.fixture
def card() -> Card:
    return Card((PF, SECOND_PF))


def refused(error: pytest.ExceptionInfo[OSError]) -> tuple[int, str]:
    return error.value.errno or 0, error.value.strerror or ""


def test_vfs_of_two_pfs_have_different_addresses_and_groups() -> None:
    card = Card((PF, SECOND_PF), hardware=Hardware(total_vfs=300))
    for pf in card.pfs:
        card.numvfs(pf, "300")
    functions = card.functions()
    assert len({function.address for function in functions}) == 602
    assert len({function.iommu_group for function in functions}) == 602
    assert card.vf(0) == "0000:e1:00.2"
    assert card.vf(254) == "0000:e2:00.0"


def test_a_recreated_vf_has_default_settings(card: Card) -> None:
    card.numvfs(PF, "1")
    card.set_eswitch_mode(PF, "switchdev")
    card.unbind("mlx5_core", card.vf(0))
    card.set_port_function(PF, 1, hw_addr="52:54:00:00:00:01", migratable=True)
    card.numvfs(PF, "0")
    card.numvfs(PF, "1")
    port = card.ports(PF)[1]
    assert (port.hw_addr, port.migratable) == ("00:00:00:00:00:00", False)


def test_migratable_of_a_vf_survives_legacy_mode(card: Card) -> None:
    card.autoprobe(PF, "0")
    card.numvfs(PF, "1")
    card.set_eswitch_mode(PF, "switchdev")
    card.set_port_function(PF, 1, migratable=True)
    card.set_eswitch_mode(PF, "legacy")
    assert [port.flavour for port in card.ports(PF)] == ["physical"]
    card.set_eswitch_mode(PF, "switchdev")
    assert card.ports(PF)[1].migratable


def test_a_variant_driver_bound_in_legacy_mode_cannot_migrate(card: Card) -> None:
    card.autoprobe(PF, "0")
    card.numvfs(PF, "1")
    card.set_eswitch_mode(PF, "switchdev")
    card.set_port_function(PF, 1, migratable=True)
    card.set_eswitch_mode(PF, "legacy")
    card.driver_override(card.vf(0), "mlx5_vfio_pci\n")
    card.bind("mlx5_vfio_pci", card.vf(0))
    assert card.function(card.vf(0)).migratable_at_bind is False


def test_unbinding_a_pf_removes_its_vfs_and_its_devlink_device(card: Card) -> None:
    card.numvfs(PF, "2")
    card.set_eswitch_mode(PF, "switchdev")
    card.unbind("mlx5_core", PF)
    assert [function.address for function in card.functions()] == [PF, SECOND_PF]
    assert card.handles() == [SECOND_PF]
    with pytest.raises(OSError, match="19") as caught:
        card.eswitch_mode(PF)
    assert refused(caught) == (errno.ENODEV, "")
    card.bind("mlx5_core", PF)
    assert card.eswitch_mode(PF) == "legacy"


def test_vfio_binds_nothing_without_an_iommu() -> None:
    card = Card([PF], hardware=Hardware(iommu=False))
    card.autoprobe(PF, "0")
    card.numvfs(PF, "1")
    card.driver_override(card.vf(0), "vfio-pci")
    card.drivers_probe(card.vf(0))
    assert card.function(card.vf(0)).driver is None
    with pytest.raises(OSError, match="22") as caught:
        card.bind("vfio-pci", card.vf(0))
    assert refused(caught) == (errno.EINVAL, "")


def test_new_id_lets_a_driver_match(card: Card) -> None:
    card.numvfs(PF, "1")
    vf = card.vf(0)
    card.unbind("mlx5_core", vf)
    card.new_id("vfio-pci", "15b3 101e")
    assert card.function(vf).driver == "vfio-pci"


def test_an_address_of_the_wrong_length_is_refused(card: Card) -> None:
    card.numvfs(PF, "1")
    card.set_eswitch_mode(PF, "switchdev")
    with pytest.raises(OSError, match="Address must be 6 bytes for Ethernet device") as caught:
        card.set_port_function(PF, 1, hw_addr="52:54:00")
    assert caught.value.errno == errno.EINVAL


def test_each_requested_change_is_recorded(card: Card) -> None:
    with pytest.raises(OSError, match="34"):
        card.numvfs(PF, "99")
    card.numvfs(PF, "1\n")
    assert card.trace == [("numvfs", PF, "99"), ("numvfs", PF, "1\n")]


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("4\n", 4), ("0x1f", 31), ("017", 15), ("+3", 3), ("65535", 65535)],
)
def test_a_number_is_read_as_by_the_kernel(text: str, number: int) -> None:
    assert u16(text) == number


@pytest.mark.parametrize("text", ["", "\n", "-1", "65536", "1 ", " 1", "1\n\n", "1_0", "09", "0x", "one"])
def test_a_number_that_the_kernel_refuses_is_refused(text: str) -> None:
    with pytest.raises(OSError, match="22"):
        u16(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("yes\n", True), ("on", True), ("0", False), ("N", False), ("off", False)],
)
def test_a_boolean_is_read_as_by_the_kernel(text: str, value: bool) -> None:
    assert boolean(text) is value


@pytest.mark.parametrize("text", ["", "x", "2", "o"])
def test_a_boolean_that_the_kernel_refuses_is_refused(text: str) -> None:
    with pytest.raises(OSError, match="22"):
        boolean(text)
