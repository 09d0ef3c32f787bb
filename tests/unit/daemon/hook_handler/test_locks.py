# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that gets one VF of two beside a reconcile: neither waits for the other for good."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import Rig
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress

# Far longer than either thread needs when it does not wait for the other.
PATIENCE = 30.0


class PausingStore(ClaimStore):
    """Has whoever converges pause between the VF's lock, which it holds, and the claims' lock, which it asks for."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        super().__init__(directory, clock)
        self.pause_on: Optional[PciAddress] = None
        self.paused = threading.Event()
        self.released = threading.Event()

    def get(self, vf: PciAddress) -> Optional[Claim]:
        if vf == self.pause_on and threading.current_thread().name == "converging":
            self.paused.set()
            assert self.released.wait(PATIENCE)
        return super().get(vf)

    def release(self, claim: Claim, *, gone: bool = False) -> Optional[Claim]:
        try:
            return super().release(claim, gone=gone)
        finally:
            self.released.set()


@pytest.fixture
def store_and_rig(tmp_path: Path) -> Iterator[tuple[PausingStore, Rig]]:
    stores: list[PausingStore] = []

    def make(directory: Path, clock: Callable[[], float]) -> ClaimStore:
        stores.append(PausingStore(directory, clock))
        return stores[-1]

    with Rig(tmp_path, make_store=make) as rig:
        yield stores[0], rig


def test_a_guest_that_gets_one_of_two_vfs_does_not_deadlock_with_a_reconcile(
    store_and_rig: tuple[PausingStore, Rig],
) -> None:
    store, rig = store_and_rig
    free, *others = rig.memory.vfs
    for number, vf in enumerate(others, 1):
        rig.run(guest(number, vf))
    store.pause_on = free
    # daemons: threads that wait for each other for good must not keep the test run from ending
    converging = threading.Thread(target=rig.converger.converge, args=(free,), name="converging", daemon=True)
    refusals: list[Refused] = []

    def arrive() -> None:
        with pytest.raises(Refused) as refused:
            rig.call("migrate", guest(9, ELSEWHERE, PciAddress(0, 0x81, 0, 3)))
        refusals.append(refused.value)

    arriving = threading.Thread(target=arrive, name="arriving", daemon=True)
    converging.start()
    assert store.paused.wait(PATIENCE)
    arriving.start()
    arriving.join(PATIENCE)
    converging.join(PATIENCE)
    assert not arriving.is_alive()
    assert not converging.is_alive()
    assert "no free VF" in str(refusals[0])
    assert store.get(free) is None
