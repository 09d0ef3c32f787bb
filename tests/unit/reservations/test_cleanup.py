# SPDX-License-Identifier: GPL-2.0-or-later
"""Releasing claims where an error can no longer be returned: each VF's failure is its own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.fakes.claim_files import FaultyFiles
from tests.fakes.guest_xml import guest
from tests.fakes.rig import PF, Rig
from vfmigrate.claims.claim_store import PREPARED, ClaimStore
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import SwitchPort
from vfmigrate.reservations.cleanup import Cleanup


class DiskRig(Rig):
    """The rig with a disk that can fail, and a switch that counts how often it is asked."""

    def __init__(self, directory: Path) -> None:
        made: list[FaultyFiles] = []

        def files(place: Path) -> FaultyFiles:
            made.append(FaultyFiles(place))
            return made[0]

        def make_store(place: Path, clock: Callable[[], float]) -> ClaimStore:
            return ClaimStore(place, clock, files=files)

        super().__init__(directory, make_store=make_store)
        self.files = made[0]
        self.cleanup = Cleanup(self.store, self.converger, self.log)
        self.asked = 0

    def count_questions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        port = self.memory.ovs.port

        def counted(name: str) -> SwitchPort | None:
            self.asked += 1
            return port(name)

        monkeypatch.setattr(self.memory.ovs, "port", counted)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DiskRig]:
    with DiskRig(tmp_path) as rig:
        for vf in rig.memory.vfs:
            rig.converger.converge(vf)
        yield rig


def two_vfs(rig: DiskRig) -> tuple[str, PciAddress, PciAddress]:
    """A guest with two VFs, and which."""
    first, second = rig.memory.vfs[0], rig.memory.vfs[1]
    return guest(1, first, second), first, second


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM, errno.ENOSPC])
def test_a_claim_that_cannot_be_written_keeps_no_port(rig: DiskRig, number: int) -> None:
    clean = rig.memory.host.survey(PF)
    xml, first, second = two_vfs(rig)
    rig.run(xml)
    rig.files.fail(number, str(first))
    rig.call("stopped", xml)
    assert rig.memory.ovs.ports == {}
    assert [claim.state for claim in rig.store.all()] == [PREPARED, PREPARED]
    rig.call("release", xml)
    assert rig.memory.host.survey(PF) == clean
    assert rig.store.get(second) is rig.store.releasing(second) is None
    releasing = rig.store.releasing(first)
    assert releasing is not None  # its VF is not given to anybody, as the file still names its guest
    assert f"cannot remove the claim on {first}" in str(rig.store.problem(first))
    with pytest.raises(HostError, match="cannot remove the claim"):
        rig.run(guest(2, first))
    rig.files.heal()
    assert rig.cleanup.finish() == [(releasing, [])]
    rig.run(guest(2, first))


def test_a_full_disk_keeps_no_claim_from_being_dropped(rig: DiskRig) -> None:
    xml, first, second = two_vfs(rig)
    rig.run(xml)
    rig.files.writes[None] = errno.ENOSPC
    rig.leave(xml)
    assert list(rig.files.load()) == []
    assert rig.store.all_releasing() == []
    assert rig.store.problem(first) is rig.store.problem(second) is None


def test_an_interrupted_release_is_finished_by_the_next_daemon(tmp_path: Path) -> None:
    """Killed between the mark and the first change: what only the claim knew is not lost."""
    with Rig(tmp_path) as first:
        memory, vf = first.memory, first.memory.vfs[0]
        first.converger.converge(vf)
        clean = memory.host.observe(vf)
        first.run(guest(1, vf))
        (claim,) = first.store.all()
        assert clean.port_index is not None
        memory.devlink.set_port_function(PF, clean.port_index, hw_addr=claim.mac)
        memory.sysfs.bind(vf, "mlx5_vfio_pci")
        memory.card.driver_override(str(vf), "mlx5_vfio_pci")
        first.store.release(claim, gone=True)
    with Rig(tmp_path, memory) as second:
        cleanup = Cleanup(second.store, second.converger, second.log)
        ((finished, changes),) = cleanup.finish()
        assert finished.id == claim.id
        assert len(changes) == 5
        assert memory.host.observe(vf) == clean
        assert memory.sysfs.driver_override(vf) is None
        assert second.store.all_releasing() == []
        assert cleanup.finish() == []


def test_a_switch_that_does_not_answer_is_asked_once_for_all_vfs(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml, *vfs = two_vfs(rig)
    rig.run(xml)
    rig.count_questions(monkeypatch)
    rig.memory.ovs.down = True
    rig.call("stopped", xml)
    assert rig.asked == 1
    rig.call("release", xml)
    assert rig.asked == 2
    assert [claim.vf for claim in rig.store.all_releasing()] == vfs
    rig.memory.ovs.down = False
    assert [claim.vf for claim, _ in rig.cleanup.finish()] == vfs
    assert rig.memory.ovs.ports == {}


def test_a_vf_that_is_being_released_is_not_free(rig: DiskRig) -> None:
    vf = rig.memory.vfs[0]
    rig.run(guest(1, vf))
    rig.memory.ovs.down = True
    rig.leave(guest(1, vf))
    with pytest.raises(Unreachable, match="does not answer"):
        rig.run(guest(2, vf))
    rig.memory.ovs.down = False
    rig.run(guest(2, vf))  # finishes the release first
    assert [claim.domain_name for claim in rig.store.all()] == ["guest2"]
