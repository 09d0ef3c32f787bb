# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake sysfs behaves as observed on a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import observations
from tests.integration.mounted_sysfs import mounted

PF = "0000:e1:00.0"


@pytest.mark.parametrize("other_driver", ["vfio-pci", "mlx5_vfio_pci"])
def test_fake_sysfs_behaves_as_observed_on_a_real_kernel(tmp_path: Path, other_driver: str) -> None:
    with mounted(tmp_path, PF) as root:
        seen = observations.observe(root, PF, "mlx5_core", other_driver)
    assert observations.differences(seen) == []


def test_the_observations_leave_the_card_as_it_was(tmp_path: Path) -> None:
    with mounted(tmp_path, PF) as root:
        for _ in range(2):
            assert observations.differences(observations.observe(root, PF, "mlx5_core", "vfio-pci")) == []
            assert (root / "bus/pci/devices" / PF / "sriov_numvfs").read_text() == "0\n"


def test_differences_are_printed() -> None:
    seen = {**observations.EXPECTED, "numvfs 99": "ok", "new": True}
    del seen["unbind"]
    assert observations.differences(seen) == [
        'numvfs 99: expected "ERANGE", saw "ok"',
        'unbind: expected "ok", saw null',
        "new: expected null, saw true",
    ]
