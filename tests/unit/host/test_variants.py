# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of a VFIO driver by modules.alias."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfmigrate.host.variants import VfioVariants

CONNECTX_VF = "pci:v000015B3d0000101Esv000015B3sd00000041bc02sc00i00"
OTHER = "pci:v00008086d000010CAsv00008086sd00000000bc02sc00i00"

ALIASES = """\
# Aliases extracted from modules themselves.
alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci
alias vfio_pci:v000019E5d0000A251sv*sd*bc*sc*i* hisi_acc_vfio_pci
alias vfio:v00008086d000010CAsv*sd*bc*sc*i* not_this
alias devname:vfio/vfio vfio
"""


@pytest.fixture
def modules_alias(tmp_path: Path) -> Path:
    path = tmp_path / "modules.alias"
    path.write_text(ALIASES)
    return path


def test_the_module_made_for_a_device_is_chosen(modules_alias: Path) -> None:
    assert VfioVariants(modules_alias).best_module(CONNECTX_VF) == "mlx5_vfio_pci"


def test_a_device_without_a_variant_gets_vfio_pci(modules_alias: Path) -> None:
    assert VfioVariants(modules_alias).best_module(OTHER) == "vfio_pci"


@pytest.mark.parametrize("order", [1, -1])
def test_the_alias_with_the_fewest_wildcards_is_chosen(modules_alias: Path, order: int) -> None:
    lines = [
        *ALIASES.splitlines(),
        "alias vfio_pci:v000015B3d*sv*sd*bc*sc*i* any_mellanox",
        "alias vfio_pci:v000015B3d0000101Esv000015B3sd00000041bc*sc*i* this_board",
    ]
    modules_alias.write_text("\n".join(lines[::order]))
    assert VfioVariants(modules_alias).best_module(CONNECTX_VF) == "this_board"


def test_all_modules_with_vfio_aliases_are_listed(modules_alias: Path) -> None:
    assert VfioVariants(modules_alias).modules() == {"vfio_pci", "mlx5_vfio_pci", "hisi_acc_vfio_pci"}


def test_a_kernel_without_modules_has_no_variant(tmp_path: Path) -> None:
    variants = VfioVariants(tmp_path / "absent")
    assert variants.best_module(CONNECTX_VF) is None
    assert variants.modules() == frozenset()


def test_a_changed_modules_alias_is_read_again(modules_alias: Path) -> None:
    variants = VfioVariants(modules_alias)
    assert variants.best_module(OTHER) == "vfio_pci"
    # As depmod does: a new file takes the old one's place.
    fresh = modules_alias.with_suffix(".new")
    fresh.write_text(f"{ALIASES}alias vfio_pci:v00008086d000010CAsv*sd*bc*sc*i* igb_vfio_pci\n")
    fresh.rename(modules_alias)
    assert variants.best_module(OTHER) == "igb_vfio_pci"
