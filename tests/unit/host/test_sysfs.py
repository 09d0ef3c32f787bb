# SPDX-License-Identifier: GPL-2.0-or-later
"""The sysfs door on a directory that shows a card but does not act on what is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes import sysfs_tree
from tests.fakes.card import Card
from tests.fakes.hardware import Hardware
from vfmigrate import deadline, uninterruptible
from vfmigrate.errors import HostError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.vfio import VfioNodes
from vfmigrate.model.pci import PciAddress, PciId
from vfmigrate.polling import until

PF = PciAddress.parse("0000:e1:00.0")
ABSENT = PciAddress.parse("0000:99:00.0")

Show = Callable[[Card], Sysfs]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Lay out a card, with the kernel's modules, device nodes and processes beside it."""

    def show(card: Card) -> Sysfs:
        sysfs_tree.make(card, tmp_path / "sys")
        for name in ("modules", "dev/vfio/devices", "proc"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "proc" / str(os.getpid())).symlink_to("/proc/self")
        (tmp_path / "modules/modules.alias").write_text(card.hardware.modules_alias())
        return Sysfs(
            tmp_path / "sys", modules=tmp_path / "modules", dev=tmp_path / "dev", proc=tmp_path / "proc"
        )

    return show


def card_with(vfs: int, driver: str = "", hardware: Hardware = Hardware()) -> Card:  # noqa: B008  (frozen)
    """A card with that many VFs, all of them on one driver; unbound when it is empty."""
    card = Card([str(PF)], hardware=hardware)
    card.autoprobe(str(PF), "0")
    card.numvfs(str(PF), str(vfs))
    for index in range(vfs):
        if driver:
            card.driver_override(card.vf(index), driver)
            card.drivers_probe(card.vf(index))
            card.driver_override(card.vf(index), "\n")
    return card


def test_vfs_ids_and_the_pf_of_a_vf_are_read(show: Show) -> None:
    card = card_with(8)
    sysfs = show(card)
    vfs = [PciAddress.parse(card.vf(index)) for index in range(8)]
    assert sysfs.vfs(PF) == vfs
    assert sysfs.vf_index(vfs[6]) == 6
    assert sysfs.physfn(vfs[6]) == PF
    assert sysfs.physfn(PF) is None
    assert sysfs.exists(PF)
    assert (sysfs.pci_id(PF), sysfs.pci_id(vfs[6])) == (PciId(0x15B3, 0x1021), PciId(0x15B3, 0x101E))
    assert (sysfs.numvfs(PF), sysfs.totalvfs(PF), sysfs.autoprobe(PF)) == (8, 8, False)


def test_vfs_are_in_the_order_of_their_numbers(show: Show) -> None:
    sysfs = show(card_with(12, hardware=Hardware(total_vfs=16)))
    assert [sysfs.vf_index(vf) for vf in sysfs.vfs(PF)] == list(range(12))


def test_vfs_whose_addresses_do_not_follow_each_other_have_their_numbers(show: Show, tmp_path: Path) -> None:
    sysfs = show(card_with(4))
    vfs = sysfs.vfs(PF)
    device = tmp_path / "sys/bus/pci/devices" / str(PF)
    links = [device / f"virtfn{number}" for number in (1, 2)]
    targets = [link.readlink() for link in links]
    for link, target in zip(links, reversed(targets)):
        link.unlink()
        link.symlink_to(target)
    assert [sysfs.vf_index(vf) for vf in vfs] == [0, 2, 1, 3]


def test_an_absent_device_has_no_attributes(show: Show) -> None:
    sysfs = show(card_with(0))
    assert not sysfs.exists(ABSENT)
    assert sysfs.pci_id(ABSENT) is None
    assert sysfs.physfn(ABSENT) is None
    assert sysfs.driver(ABSENT) is None
    assert sysfs.vfs(ABSENT) == []
    assert sysfs.netdevs(ABSENT) == []
    assert sysfs.iommu_group(ABSENT) == []
    assert not sysfs.in_use(ABSENT)
    with pytest.raises(HostError, match=r"there is no PCI device 0000:99:00\.0; see 'lspci -D'"):
        sysfs.numvfs(ABSENT)
    with pytest.raises(HostError, match=r"0000:99:00\.0 is not a VF of this host"):
        sysfs.vf_index(ABSENT)


def test_a_vf_is_not_a_pf(show: Show) -> None:
    card = card_with(1)
    with pytest.raises(HostError, match="is not an SR-IOV physical function; it has no sriov_numvfs"):
        show(card).numvfs(PciAddress.parse(card.vf(0)))


@pytest.mark.parametrize("driver", ["mlx5_core", "vfio-pci", "mlx5_vfio_pci"])
def test_the_driver_of_a_vf_is_read(show: Show, driver: str) -> None:
    card = card_with(1, driver)
    assert show(card).driver(PciAddress.parse(card.vf(0))) == driver


@pytest.mark.parametrize(("enabled", "may_be_open"), [("0\n", False), ("1\n", True), (None, True)])
def test_a_vf_that_is_not_enabled_is_not_open(
    show: Show, tmp_path: Path, enabled: Optional[str], may_be_open: bool
) -> None:
    card = card_with(1, "vfio-pci")
    sysfs, vf = show(card), PciAddress.parse(card.vf(0))
    if enabled is not None:
        (tmp_path / "sys/bus/pci/devices" / str(vf) / "enable").write_text(enabled)
    assert sysfs.may_be_open(vf) is may_be_open


@pytest.mark.parametrize("name", ["driver", "net"])
def test_what_cannot_be_read_is_not_taken_for_absent(show: Show, tmp_path: Path, name: str) -> None:
    card = card_with(1, "mlx5_core")
    sysfs, vf = show(card), PciAddress.parse(card.vf(0))
    entry = tmp_path / "sys/bus/pci/devices" / str(vf) / name
    if entry.is_symlink():
        entry.unlink()
        entry.write_text("")  # a link cannot be read from it
    else:
        shutil.rmtree(entry)
        entry.symlink_to(entry)  # a loop, which cannot be listed
    with pytest.raises(HostError, match=f"cannot read {entry}: "):
        sysfs.driver(vf) if name == "driver" else sysfs.netdevs(vf)


def test_a_vf_whose_unbinding_waits_for_its_guest_delays_no_other(show: Show, tmp_path: Path) -> None:
    card = card_with(2, "mlx5_core")
    sysfs = show(card)
    stuck, other = (PciAddress.parse(card.vf(index)) for index in range(2))
    for vf in (stuck, other):
        driver = tmp_path / "sys/bus/pci/devices" / str(vf) / "driver"
        own = tmp_path / f"driver-of-{vf}"
        (own / "mlx5_core").mkdir(parents=True)
        driver.unlink()
        driver.symlink_to(own / "mlx5_core")
    unbind = tmp_path / "sys/bus/pci/drivers/mlx5_core/unbind"
    unbind.unlink()
    os.mkfifo(unbind)  # whoever writes to it waits for a reader, as the kernel makes him wait for a guest
    looked, driver_of = threading.Event(), sysfs.driver

    def look(device: PciAddress) -> Optional[str]:
        looked.set()  # done once the device's lock is held
        return driver_of(device)

    sysfs.driver = look  # type: ignore[method-assign]
    waiting = threading.Thread(target=unbind_anyway, args=(sysfs, stuck), daemon=True)
    waiting.start()
    assert looked.wait(10)
    done = threading.Thread(target=sysfs.bind, args=(other, "mlx5_core"), daemon=True)
    done.start()  # bound to it already: nothing to write, but the lock is taken
    done.join(10)
    assert not done.is_alive()
    assert waiting.is_alive()
    with unbind.open("rb") as reader:
        assert reader.read() == str(stuck).encode()
    waiting.join(10)
    assert not waiting.is_alive()


def unbind_anyway(sysfs: Sysfs, vf: PciAddress) -> None:
    with contextlib.suppress(HostError):  # a directory does not act on what is written
        sysfs.unbind(vf)


def test_an_unbound_device_has_no_driver(show: Show) -> None:
    card = card_with(1)
    assert show(card).driver(PciAddress.parse(card.vf(0))) is None


def test_network_devices_of_a_pf_include_representors(show: Show) -> None:
    card = card_with(2)
    card.set_eswitch_mode(str(PF), "switchdev")
    assert show(card).netdevs(PF) == ["enp225s0f0np0", "enp225s0f0npf0vf0", "enp225s0f0npf0vf1"]


def test_the_iommu_group_of_a_vf_is_read(show: Show) -> None:
    card = card_with(1)
    vf = PciAddress.parse(card.vf(0))
    assert show(card).iommu_group(vf) == [vf]


def test_without_an_iommu_a_vf_has_no_group(show: Show) -> None:
    card = card_with(1, hardware=Hardware(iommu=False))
    assert show(card).iommu_group(PciAddress.parse(card.vf(0))) == []


@pytest.mark.parametrize("count", [1, 11, 2048])
def test_the_msix_count_of_a_vf_is_read(show: Show, count: int) -> None:
    card = card_with(1, hardware=Hardware(vf_msix=count))
    assert show(card).msix_count(PciAddress.parse(card.vf(0))) == count


@pytest.mark.parametrize(
    "space",
    [
        pytest.param(bytes(64), id="as shown to who is not root"),
        pytest.param(bytes(256), id="no capabilities"),
        pytest.param(b"\xff" * 256, id="a device that does not answer"),
        pytest.param(
            bytes(6) + b"\x10" + bytes(0x34 - 7) + b"\x40" + bytes(11) + b"\x09\x40" + bytes(190), id="a loop"
        ),
    ],
)
def test_a_device_without_msix_has_no_count(show: Show, tmp_path: Path, space: bytes) -> None:
    sysfs = show(card_with(0))
    (tmp_path / "sys/bus/pci/devices" / str(PF) / "config").write_bytes(space)
    assert sysfs.msix_count(PF) is None


def test_the_variant_driver_of_a_vf_is_found(show: Show) -> None:
    card = card_with(1)
    sysfs = show(card)
    assert sysfs.variant_driver(PciAddress.parse(card.vf(0))) == "mlx5_vfio_pci"
    assert sysfs.variant_driver(PF) == "vfio-pci"


def test_a_kernel_without_a_variant_driver_gives_vfio_pci(show: Show) -> None:
    card = card_with(1, hardware=Hardware(variant_driver=None))
    assert show(card).variant_driver(PciAddress.parse(card.vf(0))) == "vfio-pci"


def test_the_driver_of_a_variant_module_may_have_another_name(show: Show, tmp_path: Path) -> None:
    card = card_with(1)
    sysfs = show(card)
    drivers = tmp_path / "sys/module/mlx5_vfio_pci/drivers"
    (drivers / "pci:mlx5_vfio_pci").rename(drivers / "pci:mlx5-vfio-pci")
    assert sysfs.variant_driver(PciAddress.parse(card.vf(0))) == "mlx5-vfio-pci"
    assert sysfs.is_vfio("mlx5-vfio-pci")


def test_vfio_drivers_are_recognised(show: Show) -> None:
    sysfs = show(card_with(0))
    assert [sysfs.is_vfio(name) for name in ("vfio-pci", "mlx5_vfio_pci", "mlx5_core", None)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_vf_that_is_held_by_its_group_is_in_use(show: Show, tmp_path: Path) -> None:
    card = card_with(2, "mlx5_vfio_pci")
    sysfs = show(card)
    first, second = (PciAddress.parse(card.vf(index)) for index in range(2))
    group = tmp_path / "dev/vfio" / str(card.function(str(first)).iommu_group)
    group.touch()
    assert not sysfs.in_use(first)
    with group.open():
        assert sysfs.in_use(first)
        assert not sysfs.in_use(second)
    assert not sysfs.in_use(first)


def test_a_vf_that_is_held_by_its_own_node_is_in_use(show: Show, tmp_path: Path) -> None:
    card = card_with(1, "mlx5_vfio_pci")
    sysfs = show(card)
    vf = PciAddress.parse(card.vf(0))
    (tmp_path / "sys/bus/pci/devices" / str(vf) / "vfio-dev/vfio3").mkdir(parents=True)
    with (tmp_path / "dev/vfio/devices/vfio3").open("w"):
        assert sysfs.in_use(vf)


def test_a_vf_without_a_vfio_driver_is_not_in_use(show: Show, tmp_path: Path) -> None:
    card = card_with(1, "mlx5_core")
    sysfs = show(card)
    with (tmp_path / "dev/vfio" / str(card.function(card.vf(0)).iommu_group)).open("w"):
        assert not sysfs.in_use(PciAddress.parse(card.vf(0)))


def test_removing_vfs_in_use_is_refused(show: Show, tmp_path: Path) -> None:
    card = card_with(2, "mlx5_vfio_pci")
    sysfs = show(card)
    held = card.function(card.vf(1))
    with (tmp_path / "dev/vfio" / str(held.iommu_group)).open("w"), pytest.raises(HostError) as caught:
        sysfs.set_numvfs(PF, 0)
    assert f"in use: {held.address} by process {os.getpid()}; migrate those guests to another host" in str(
        caught.value
    )
    assert sysfs.numvfs(PF) == 2


def test_a_bind_without_effect_is_an_error(show: Show) -> None:
    card = card_with(1)
    sysfs = show(card)
    vf = PciAddress.parse(card.vf(0))
    with pytest.raises(HostError, match=r"did not bind to vfio-pci; its driver is now none; see dmesg"):
        sysfs.bind(vf, "vfio-pci")


def test_an_unbind_without_effect_is_an_error(show: Show) -> None:
    card = card_with(1, "mlx5_core")
    with pytest.raises(HostError, match=r"is bound to mlx5_core after mlx5_core was unbound"):
        show(card).unbind(PciAddress.parse(card.vf(0)))


def test_a_refused_write_has_the_kernels_text(show: Show, tmp_path: Path) -> None:
    sysfs = show(card_with(0))
    attribute = tmp_path / "sys/bus/pci/devices" / str(PF) / "sriov_drivers_autoprobe"
    attribute.unlink()
    attribute.symlink_to("/proc/self/attr/absent")
    with pytest.raises(HostError, match=r"cannot write '1' to .*sriov_drivers_autoprobe: No such file"):
        sysfs.set_autoprobe(PF, True)


def test_the_nodes_by_which_a_vf_is_opened(show: Show) -> None:
    card = card_with(2, "mlx5_vfio_pci")
    sysfs = show(card)
    vf = PciAddress.parse(card.vf(1))
    group = card.function(str(vf)).iommu_group
    assert sysfs.vfio_nodes(vf) == VfioNodes(f"vfio/{group}", f"vfio/devices/vfio{group}")
    assert sysfs.vfio_nodes(ABSENT) == VfioNodes()
    assert isinstance(sysfs.driver_identity("mlx5_vfio_pci"), int)
    assert sysfs.driver_identity("mlx5_vfio_pci") != sysfs.driver_identity("vfio-pci")
    assert sysfs.driver_identity("no_such_driver") is None


@contextlib.contextmanager
def stuck(*files: Path) -> Iterator[None]:
    """Files that the kernel does not show: FIFOs that nobody writes to, until the context is left."""
    texts = {file: file.read_bytes() for file in files}
    for file in files:
        file.unlink()
        os.mkfifo(file)
    try:
        yield
    finally:

        def let_go() -> bool:
            for file in files:
                with contextlib.suppress(OSError):  # no reader waits
                    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
            return uninterruptible.hung() == {}

        assert until(let_go, 20.0, 0.01)
        for file, text in texts.items():
            file.unlink()
            file.write_bytes(text)


READS: dict[str, Callable[[Sysfs, PciAddress], object]] = {
    "driver_override": lambda sysfs, vf: sysfs.driver_override(vf),
    "sriov_numvfs": lambda sysfs, _vf: sysfs.numvfs(PF),
    "config": lambda sysfs, vf: (sysfs.msix_count(vf), sysfs.bus_master(vf)),
}


@pytest.mark.parametrize("name", READS)
def test_an_attribute_that_the_kernel_does_not_show_is_given_up(
    show: Show, tmp_path: Path, name: str
) -> None:
    """The kernel holds a device's lock while a driver is bound or VFs are created, and a driver can be stuck there."""
    card = card_with(2)
    sysfs = show(card)
    vf = PciAddress.parse(card.vf(1))
    file = tmp_path / "sys/bus/pci/devices" / str(PF if name == "sriov_numvfs" else vf) / name
    expected = pytest.raises(HostError, match=r"the kernel did not answer within .*: read ")
    with stuck(file), deadline.within(0.1), expected:
        READS[name](sysfs, vf)
    READS[name](sysfs, vf)


def test_one_vf_that_the_kernel_does_not_show_keeps_no_other_from_being_read(
    show: Show, tmp_path: Path
) -> None:
    card = card_with(3)
    sysfs = show(card)
    vfs = [PciAddress.parse(card.vf(index)) for index in range(3)]
    assert sysfs.driver_overrides(vfs) == dict.fromkeys(vfs)
    file = tmp_path / "sys/bus/pci/devices" / str(vfs[1]) / "driver_override"
    with stuck(file), deadline.within(0.3):
        assert sysfs.driver_overrides(vfs) == {vfs[0]: None}


def test_a_process_whose_command_line_is_not_shown_has_a_name_all_the_same(
    show: Show, tmp_path: Path
) -> None:
    sysfs = show(card_with(0))
    file = tmp_path / "proc/4711/cmdline"
    file.parent.mkdir()
    file.touch()
    with stuck(file), deadline.within(0.1):
        assert sysfs.user_of(4711) == "process 4711"
