# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims: on disk whole or not at all, never one VF twice."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.claim_files import FaultyFiles
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.errors import HostError, InputError, Refused
from vfmigrate.model.pci import PciAddress

VF = PciAddress(0, 1, 0x10, 2)
DOMAIN = "22222222-2222-4222-8222-222222222222"
OTHER = "22222222-2222-4222-8222-222222222223"
CLAIM = Claim(
    vf=VF, pool="data", domain=DOMAIN, domain_name="guest1", state=claim_store.RESERVED, since=0.0, vlan=42
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClaimStore]:
    store = ClaimStore(tmp_path / "claims")
    yield store
    store.close()


def test_claims_are_read_again_by_the_next_daemon(tmp_path: Path) -> None:
    first = ClaimStore(tmp_path / "claims")
    put = first.put(CLAIM)
    first.close()
    again = ClaimStore(tmp_path / "claims")
    assert again.get(VF) == put
    assert again.of_domain(DOMAIN) == [put]
    again.close()


def test_a_dropped_claim_is_gone_from_disk(store: ClaimStore, tmp_path: Path) -> None:
    assert store.drop(store.put(CLAIM))
    assert list((tmp_path / "claims").glob("*.json")) == []
    assert store.get(VF) is None


def test_claims_are_listed_in_the_order_of_their_vfs_after_every_change(store: ClaimStore) -> None:
    vfs = [PciAddress(0, 1, slot, 0) for slot in range(4)]
    later, first, last = (store.put(replace(CLAIM, vf=vfs[slot], id=str(slot))) for slot in (2, 0, 3))
    assert store.all() == store.of_domain(DOMAIN) == [first, later, last]
    between = store.put(replace(CLAIM, vf=vfs[1], id="1"))
    assert store.all() == [first, between, later, last]
    changed = store.change(later, state=claim_store.PREPARED)
    assert store.all() == [first, between, changed, last]
    releasing = store.release(first)
    assert store.all() == store.of_domain(DOMAIN) == [between, changed, last]
    assert store.all_releasing() == [releasing]
    assert store.drop(between)
    assert store.all() == [changed, last]
    store.all().clear()
    assert store.all() == [changed, last]


def test_a_late_clean_up_changes_no_newer_claim(store: ClaimStore) -> None:
    old = store.put(CLAIM)
    store.drop(old)
    new = store.put(
        Claim(vf=VF, pool="data", domain=OTHER, domain_name="g2", state=claim_store.PLUGGED, since=0.0)
    )
    assert not store.drop(old)
    assert store.change(old, state=claim_store.PREPARED) is None
    assert store.get(VF) == new


@pytest.mark.parametrize("claim", [CLAIM, replace(CLAIM, twin=1), replace(CLAIM, left=True)])
def test_a_claim_is_read_as_it_was_written(claim: Claim) -> None:
    assert claim_store.decode(claim_store.encode(claim)) == claim


@pytest.mark.parametrize(
    "field", sorted({*vars(CLAIM)} - {"origin", "slot", "left", "twin", "seen_in", "trace"})
)
def test_a_claim_that_lacks_a_field_is_refused(field: str) -> None:
    raw = json.loads(claim_store.encode(CLAIM))
    del raw[field]
    with pytest.raises(InputError, match=f"there is no '{field}' in the claim"):
        claim_store.decode(json.dumps(raw))


def test_a_claim_of_an_older_daemon_has_no_origin_and_no_slot() -> None:
    raw = json.loads(claim_store.encode(CLAIM))
    del raw["origin"], raw["slot"]
    assert claim_store.decode(json.dumps(raw)) == CLAIM


def test_an_older_daemon_can_read_the_claims_of_guests(store: ClaimStore, tmp_path: Path) -> None:
    store.put(CLAIM)
    (path,) = (tmp_path / "claims").glob("*.json")
    assert "left" not in json.loads(path.read_text())


def test_a_claim_that_is_releasing_is_no_guests_and_survives_the_daemon(tmp_path: Path) -> None:
    first = ClaimStore(tmp_path / "claims")
    releasing = first.release(first.put(replace(CLAIM, state=claim_store.PLUGGED)), gone=True)
    assert releasing is not None
    first.close()
    again = ClaimStore(tmp_path / "claims")
    assert again.releasing(VF) == releasing == replace(releasing, state=claim_store.RELEASING, left=True)
    assert again.all_releasing() == [releasing]
    assert (again.get(VF), again.all(), again.of_domain(DOMAIN)) == (None, [], [])
    assert again.release(releasing) is None
    assert again.change(releasing, state=claim_store.PLUGGED) is None
    with pytest.raises(Refused, match="is still being released by guest 'guest1'"), again.closed([VF]):
        pass
    assert again.drop(releasing)
    assert again.all_releasing() == []
    again.close()


@pytest.mark.parametrize(
    ("state", "gone", "left"),
    [
        (claim_store.PLUGGED, True, True),
        (claim_store.PREPARED, True, True),
        (claim_store.PLUGGED, False, False),  # libvirt may be at it
        (claim_store.RESERVED, True, False),  # libvirt never had it
    ],
)
def test_a_releasing_claim_records_what_libvirt_left_on_the_vf(
    store: ClaimStore, state: str, gone: bool, left: bool
) -> None:
    releasing = store.release(store.put(replace(CLAIM, state=state)), gone=gone)
    assert releasing is not None
    assert releasing.left is left


def test_a_late_release_touches_no_newer_owner(store: ClaimStore) -> None:
    old = store.put(CLAIM)
    new = store.put(replace(CLAIM, id="another"))
    assert store.release(old) is None
    assert store.note(old, state=claim_store.PREPARED) is None
    assert store.get(VF) == new


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[ClaimStore, FaultyFiles]]:
    made: list[FaultyFiles] = []

    def files(directory: Path) -> FaultyFiles:
        made.append(FaultyFiles(directory))
        return made[0]

    store = ClaimStore(tmp_path / "claims", files=files)
    yield store, made[0]
    store.close()


def test_a_change_that_cannot_be_written_is_kept_in_memory(faulty: tuple[ClaimStore, FaultyFiles]) -> None:
    store, files = faulty
    claim = store.put(replace(CLAIM, state=claim_store.PLUGGED))
    files.fail(errno.EROFS)
    with pytest.raises(HostError, match="Read-only file system"):
        store.change(claim, state=claim_store.PREPARED)
    assert store.get(VF) == claim
    noted = store.note(claim, state=claim_store.PREPARED)
    assert noted is not None
    assert store.get(VF) == noted
    assert "cannot write the claim" in str(store.problem(VF))
    store.rewrite()
    assert store.problem(VF) is not None
    files.heal()
    store.rewrite()
    assert store.problem(VF) is None
    assert claim_store.decode((files.directory / f"{VF}.json").read_text()) == noted


def test_a_claim_whose_file_cannot_be_removed_stays(faulty: tuple[ClaimStore, FaultyFiles]) -> None:
    store, files = faulty
    releasing = store.release(store.put(CLAIM))
    assert releasing is not None
    files.fail(errno.EPERM, str(VF))
    with pytest.raises(HostError, match="cannot remove the claim"):
        store.drop(releasing)
    assert store.releasing(VF) == releasing
    assert "cannot remove the claim" in str(store.problem(VF))
    files.heal()
    assert store.drop(releasing)
    assert store.problem(VF) is None


def test_a_claim_with_an_unknown_field_is_refused() -> None:
    raw = json.loads(claim_store.encode(CLAIM))
    with pytest.raises(InputError, match="unknown 'newer' in the claim"):
        claim_store.decode(json.dumps({**raw, "newer": 1}))


def test_a_change_keeps_what_it_does_not_name(store: ClaimStore) -> None:
    changed = store.change(store.put(CLAIM), state=claim_store.PLUGGED, expires=None)
    assert changed is not None
    assert (changed.state, changed.vlan, changed.id) == (claim_store.PLUGGED, 42, CLAIM.id)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "null",
            "[]",
            '{"format": 1}',
            '{"format": 99}',
            claim_store.encode(CLAIM)[:-9],
            "\x00" * 50,
        ),
        claim_store.encode(replace(CLAIM, domain="guest1")),
        claim_store.encode(replace(CLAIM, mac="52:54")),
    ],
    # by number: a claim has an id of its own in every run
    ids=itertools.count(),
)
def test_a_broken_file_is_set_aside_and_listed(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "claims"
    directory.mkdir(mode=0o700)
    (directory / f"{VF}.json").write_text(text)
    store = ClaimStore(directory)
    assert store.all() == []
    assert len(store.broken) == 1
    assert f"{VF}.json" in store.broken[0]
    store.close()


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_not_a_regular_file_is_set_aside_and_listed(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "claims"
    directory.mkdir(mode=0o700)
    if kind == "fifo":
        os.mkfifo(directory / f"{VF}.json")
    else:
        (directory / f"{VF}.json").mkdir()
    store = ClaimStore(directory)
    assert store.broken == [f"{VF}.json: the claim is no file"]
    assert store.put(CLAIM) == store.get(VF)
    store.close()


def test_a_file_named_after_another_vf_is_no_claim(tmp_path: Path) -> None:
    directory = tmp_path / "claims"
    directory.mkdir(mode=0o700)
    (directory / "0000:99:00.0.json").write_text(claim_store.encode(CLAIM))
    store = ClaimStore(directory)
    assert store.all() == []
    store.close()


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "claims"
    directory.mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text(claim_store.encode(CLAIM))
    (directory / f"{VF}.json").symlink_to(tmp_path / "elsewhere")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (directory / f"{VF}.new").symlink_to(victim)
    store = ClaimStore(directory)
    assert store.all() == []
    store.put(CLAIM)
    assert victim.read_text() == "untouched"
    store.close()


def test_a_directory_others_can_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "claims"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(HostError, match="is not a directory that only this user can write"):
        ClaimStore(directory)


def test_a_second_daemon_cannot_own_the_claims(store: ClaimStore, tmp_path: Path) -> None:
    store.put(CLAIM)
    with pytest.raises(HostError, match="another vfmigrated already owns"):
        ClaimStore(tmp_path / "claims")


def test_threads_never_claim_the_same_vf(store: ClaimStore) -> None:
    """Many threads want the same few VFs: each VF is given away exactly once."""
    vfs = [PciAddress(0, 1, slot, 0) for slot in range(8)]
    taken: list[PciAddress] = []

    def take(number: int) -> None:
        for vf in vfs:
            with store.lock:
                if store.get(vf) is None:
                    store.put(
                        Claim(vf=vf, pool="p", domain=str(number), domain_name="g", state="reserved", since=0)
                    )
                    taken.append(vf)
                    return

    threads = [threading.Thread(target=take, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == vfs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(json.loads(claim_store.encode(CLAIM)))), JSON)
def test_a_claim_with_any_field_wrong_is_read_or_refused(field: str, value: Any) -> None:
    raw = json.loads(claim_store.encode(CLAIM))
    raw[field] = value
    try:
        claim = claim_store.decode(json.dumps(raw))
    except InputError:
        return
    assert claim_store.decode(claim_store.encode(claim)) == claim
