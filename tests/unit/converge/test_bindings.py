# SPDX-License-Identifier: GPL-2.0-or-later
"""VFs that were bound before they were made migratable: who is remembered as one, and until when."""

from __future__ import annotations

from dataclasses import replace

from vfmigrate.converge.bindings import Bindings
from vfmigrate.converge.observe import VfState
from vfmigrate.model.pci import PciAddress

VF = PciAddress(0, 1, 0, 2)
HELD = VfState(VF, PciAddress(0, 1, 0, 0), 0, "mlx5_vfio_pci", True, True, port_index=2, migratable=True)


def test_a_flag_set_after_the_bind_leaves_the_vf_early_until_it_is_unbound() -> None:
    bindings = Bindings()
    bindings.note(HELD)
    assert not bindings.is_early(VF)
    bindings.note(replace(HELD, migratable=False))
    assert bindings.is_early(VF)
    bindings.note(HELD)  # somebody sets it
    bindings.note(replace(HELD, in_use=False))  # the guest is gone, the driver is as before
    assert bindings.is_early(VF)
    bindings.note(replace(HELD, driver=None, vfio=False, in_use=False))
    assert not bindings.is_early(VF)


def test_a_vf_that_the_daemon_bound_again_is_not_early() -> None:
    bindings = Bindings()
    bindings.note(replace(HELD, migratable=False, in_use=False))
    assert not bindings.is_early(VF)
    bindings.note(replace(HELD, migratable=False))
    bindings.rebound(VF)
    assert not bindings.is_early(VF)


def test_a_vf_of_a_card_without_the_flag_is_never_early() -> None:
    bindings = Bindings()
    bindings.note(replace(HELD, migratable=None))
    assert not bindings.is_early(VF)
