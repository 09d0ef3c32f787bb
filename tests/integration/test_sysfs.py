# SPDX-License-Identifier: GPL-2.0-or-later
"""`host.sysfs` on a sysfs that acts on writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hardware import Hardware
from tests.integration.mounted_sysfs import mounted
from vfmigrate.errors import HostError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.model.pci import PciAddress

PF = PciAddress.parse("0000:e1:00.0")
SECOND_PF = PciAddress.parse("0000:e1:00.1")
ABSENT = PciAddress.parse("0000:99:00.0")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "sys"
    mount_point.mkdir()
    with mounted(mount_point, str(PF), str(SECOND_PF)) as place:
        yield place


@pytest.fixture
def sysfs(root: Path, tmp_path: Path) -> Sysfs:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "modules.alias").write_text(Hardware().modules_alias())
    return Sysfs(root, modules=modules, dev=tmp_path / "dev")


def override(root: Path, device: PciAddress) -> str:
    return (root / "bus/pci/devices" / str(device) / "driver_override").read_text().strip()


def test_vfs_are_created_and_removed(sysfs: Sysfs) -> None:
    assert (sysfs.numvfs(PF), sysfs.totalvfs(PF), sysfs.vfs(PF)) == (0, 8, [])
    sysfs.set_numvfs(PF, 3)
    vfs = sysfs.vfs(PF)
    assert sysfs.numvfs(PF) == 3
    assert [sysfs.vf_index(vf) for vf in vfs] == [0, 1, 2]
    assert {sysfs.physfn(vf) for vf in vfs} == {PF}
    assert sysfs.vfs(SECOND_PF) == []
    sysfs.set_numvfs(PF, 0)
    assert not any(sysfs.exists(vf) for vf in vfs)


def test_the_number_of_vfs_changes_through_zero_only(sysfs: Sysfs) -> None:
    sysfs.set_numvfs(PF, 2)
    sysfs.set_numvfs(PF, 2)
    with pytest.raises(
        HostError, match=r"has 2 VFs; their number can change to 3 only through 0; set 0 first"
    ):
        sysfs.set_numvfs(PF, 3)
    assert sysfs.numvfs(PF) == 2


def test_creating_more_vfs_than_the_card_has_is_refused(sysfs: Sysfs) -> None:
    with pytest.raises(HostError, match="at most 8 VFs, not 9"):
        sysfs.set_numvfs(PF, 9)


def test_creating_vfs_on_a_pf_without_driver_is_refused(sysfs: Sysfs) -> None:
    sysfs.unbind(PF)
    with pytest.raises(HostError, match="has no driver, so it can have no VFs"):
        sysfs.set_numvfs(PF, 1)


def test_autoprobe_decides_whether_new_vfs_are_bound(sysfs: Sysfs) -> None:
    assert sysfs.autoprobe(PF)
    sysfs.set_autoprobe(PF, False)
    assert not sysfs.autoprobe(PF)
    sysfs.set_numvfs(PF, 1)
    assert sysfs.driver(sysfs.vfs(PF)[0]) is None


@pytest.mark.parametrize("autoprobe", [True, False])
def test_a_vf_is_bound_to_any_driver_and_unbound(sysfs: Sysfs, root: Path, autoprobe: bool) -> None:
    sysfs.set_autoprobe(PF, autoprobe)
    sysfs.set_numvfs(PF, 1)
    vf = sysfs.vfs(PF)[0]
    for driver in ("mlx5_vfio_pci", "vfio-pci", "mlx5_core", "mlx5_core"):
        sysfs.bind(vf, driver)
        assert sysfs.driver(vf) == driver
        assert override(root, vf) == "(null)"
    sysfs.unbind(vf)
    assert sysfs.driver(vf) is None
    sysfs.unbind(vf)
    assert sysfs.driver(vf) is None


def test_unbind_clears_the_driver_override_of_another_program(sysfs: Sysfs, root: Path) -> None:
    sysfs.set_autoprobe(PF, False)
    sysfs.set_numvfs(PF, 1)
    vf = sysfs.vfs(PF)[0]
    (root / "bus/pci/devices" / str(vf) / "driver_override").write_text("mlx5_vfio_pci")  # as libvirt does
    (root / "bus/pci/drivers_probe").write_text(str(vf))
    assert sysfs.driver(vf) == "mlx5_vfio_pci"
    sysfs.unbind(vf)
    assert (sysfs.driver(vf), override(root, vf)) == (None, "(null)")


def test_bind_to_a_driver_that_is_not_loaded_leaves_the_device_alone(sysfs: Sysfs) -> None:
    sysfs.set_numvfs(PF, 1)
    vf = sysfs.vfs(PF)[0]
    with pytest.raises(HostError, match=r"no such driver loaded; modprobe nvgrace_gpu_vfio_pci"):
        sysfs.bind(vf, "nvgrace_gpu_vfio_pci")
    assert sysfs.driver(vf) == "mlx5_core"


def test_bind_of_a_missing_device_is_an_error(sysfs: Sysfs) -> None:
    with pytest.raises(
        HostError, match=r"0000:99:00.0/driver_override: No such file or directory; .*is gone"
    ):
        sysfs.bind(ABSENT, "vfio-pci")


def test_the_variant_driver_is_found_by_its_loaded_module(sysfs: Sysfs) -> None:
    sysfs.set_numvfs(PF, 1)
    assert sysfs.variant_driver(sysfs.vfs(PF)[0]) == "mlx5_vfio_pci"
    assert sysfs.variant_driver(PF) == "vfio-pci"


class Outdated(Sysfs):
    """Reads the number of VFs before another program changes it."""

    def numvfs(self, pf: PciAddress) -> int:
        super().numvfs(pf)
        return 0


def test_the_error_about_a_busy_pf_names_the_usual_cause(sysfs: Sysfs, root: Path) -> None:
    sysfs.set_numvfs(PF, 3)
    with pytest.raises(HostError, match="sriov_numvfs: Device or resource busy") as error:
        Outdated(root).set_numvfs(PF, 2)
    assert "another program is changing the PF's VFs" in error.value.remedy


def test_a_vf_gets_its_msix_count_while_no_driver_has_it(sysfs: Sysfs) -> None:
    sysfs.set_autoprobe(PF, False)
    sysfs.set_numvfs(PF, 2)
    bound, free = sysfs.vfs(PF)
    sysfs.bind(bound, "mlx5_core")
    sysfs.set_msix_count(free, 17)
    assert (sysfs.msix_count(free), sysfs.msix_count(bound)) == (17, 11)
    sysfs.set_msix_count(bound, 11)  # as it is
    with pytest.raises(HostError, match="busy"):
        sysfs.set_msix_count(bound, 17)


def test_the_addresses_of_vfs_are_known_before_they_exist(sysfs: Sysfs) -> None:
    expected = [sysfs.vf_addresses(pf, 3) for pf in (PF, SECOND_PF)]
    modalias = sysfs.vf_modalias(PF)
    for pf in (PF, SECOND_PF):
        sysfs.set_numvfs(pf, 3)
    assert [sysfs.vfs(pf) for pf in (PF, SECOND_PF)] == expected
    assert modalias is not None
    assert sysfs.driver_for(modalias) == sysfs.variant_driver(sysfs.vfs(PF)[0]) == "mlx5_vfio_pci"
