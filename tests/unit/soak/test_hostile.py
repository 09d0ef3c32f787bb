# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile input to the daemon's parts over a host in memory; what must hold is in tests/soak/hostile.py.

`make soak` has a fuzzer at the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.soak import hostile
from tests.soak.hostile import DOMAIN, HostileRig
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.domain import domain_xml
from vfmigrate.errors import HostError, InputError
from vfmigrate.model import limits
from vfmigrate.rpc import protocol

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
PIECES = st.sampled_from(
    [
        "<a>",
        "</devices>",
        "<![CDATA[",
        "<!--",
        "<a x='",
        "&#0;",
        "&a;",
        "\U0001f600",
        "\x00",
        "\x85",
        "''",
        "=",
        "<iommu/>",
    ]
) | st.text(max_size=20)
CUTS = st.lists(st.tuples(st.integers(0, len(DOMAIN)), st.integers(0, 60), PIECES), max_size=4)
BOMB = (
    "<!DOCTYPE b [<!ENTITY a 'aaaaaaaaaa'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1 if n else str()};' * 10}'>" for n in range(12))
    + "]>"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HostileRig]:
    with HostileRig(tmp_path) as rig:
        yield rig


@pytest.mark.parametrize("operation", hostile.OPERATIONS)
def test_complete_xml_is_accepted(rig: HostileRig, operation: str) -> None:
    rig.hook(operation, DOMAIN)


@given(st.sampled_from(hostile.OPERATIONS), CUTS)
@SHARED
def test_any_xml_is_read_or_refused(
    rig: HostileRig, operation: str, cuts: list[tuple[int, int, str]]
) -> None:
    rig.hook(operation, hostile.spliced(DOMAIN, cuts))


@pytest.mark.parametrize(
    "xml",
    [
        BOMB + DOMAIN.replace("guest1", "&a11;"),
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]>" + DOMAIN.replace("guest1", "&x;"),
        "<!DOCTYPE d SYSTEM 'http://192.0.2.1/evil.dtd'>" + DOMAIN,
        DOMAIN.replace("guest1", "&undeclared;"),
        DOMAIN.replace("<devices>", "<devices>" + "<a>" * 100_000),
        DOMAIN.replace("<devices>", "<devices>" + "<a>" * 200 + "</a>" * 200),
        DOMAIN.replace("guest1", "x" * (limits.MAX_XML_BYTES + 1)),
        DOMAIN.replace("<devices>", "<devices>" + "<hostdev mode='subsystem' type='pci'/>" * 5_000),
        DOMAIN.replace("<v:vf ", "<v:vf mac='52:54:00:00:00:09'/>" * 65 + "<v:vf "),
        DOMAIN.replace("guest1", "gäst \u202e\U0001f600"),
        DOMAIN.replace("guest1", "x" * 10_000).replace("<devices>", "<devices><iommu model='intel'/>"),
        # a name to libxml2, and none to expat
        DOMAIN.replace("managed=", "\U0002038canaged=", 1),
        DOMAIN.replace(f"<uuid>{hostile.UUID}</uuid>", "<uuid/>"),
        "",
    ],
    ids=[
        "bomb",
        "file",
        "http",
        "undeclared",
        "deep",
        "nested",
        "huge",
        "many",
        "marks",
        "unicode",
        "long name",
        "names",
        "uuid",
        "empty",
    ],
)
def test_crafted_xml_is_read_or_refused(rig: HostileRig, xml: str) -> None:
    for operation in ("migrate", "prepare", "start", "reconnect"):
        rig.hook(operation, xml)


@pytest.mark.parametrize("operation", hostile.OPERATIONS)
def test_complete_xml_of_unmanaged_vfs_is_accepted(rig: HostileRig, operation: str) -> None:
    rig.hook(operation, DOMAIN.replace("managed='yes'", "managed='no'"))


REQUESTS = st.sampled_from(sorted(protocol.RESERVING | protocol.READING | protocol.ROOT_ONLY))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=40)
    | st.sampled_from(["data", "vfio", hostile.UUID]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["domain", "mac", "strategy", "pool", "vf", "vlan", "name", "plug", "incoming", "psid", "msix"]
)
WHOLE = {"domain": hostile.UUID, "mac": "52:54:00:00:00:02", "strategy": "vfio", "pool": "data"}


@given(REQUESTS, st.dictionaries(KEYS, VALUES, max_size=4))
@SHARED
def test_any_request_is_answered_or_refused(rig: HostileRig, name: str, said: dict[str, object]) -> None:
    rig.request(protocol.encode_request(name, {**WHOLE, **said}))


CONFIGURATION_CUTS = st.lists(
    st.tuples(
        st.integers(0, 120),
        st.integers(0, 30),
        PIECES | st.sampled_from(["[pool x]\n", "%(a)s", "= \n", "[", "]"]),
    ),
    max_size=4,
)


@given(CONFIGURATION_CUTS)
@SHARED
def test_any_configuration_is_read_or_refused_by_name(
    tmp_path: Path, cuts: list[tuple[int, int, str]]
) -> None:
    text = hostile.spliced(hostile.CONFIGURATION, cuts)
    hostile.configuration(tmp_path, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "text",
    [
        "[pool data]\npf = " + "x" * 100_000,
        "[" + "x" * 100_000 + "]\n",
        "[daemon]\n" + "x" * 100_000 + " = 1\n",
        "x" * 100_000,
    ],
    ids=["value", "section", "key", "nothing"],
)
def test_a_long_line_is_quoted_in_part(tmp_path: Path, text: str) -> None:
    hostile.configuration(tmp_path, text.encode())


@given(st.binary(max_size=300))
@SHARED
def test_any_bytes_are_read_or_refused_as_a_configuration(tmp_path: Path, data: bytes) -> None:
    hostile.configuration(tmp_path, data)


@pytest.mark.parametrize("name", ["mac", "state", "vf", "origin", "domain"])
def test_a_long_value_of_a_claim_is_quoted_in_part(name: str) -> None:
    raw = json.loads(hostile.CLAIM)
    hostile.claim(json.dumps({**raw, name: "x" * 100_000}).encode())
    hostile.claim(json.dumps({**raw, name + "x" * 100_000: "x"}).encode())


def test_a_claim_nested_deeply_is_unreadable() -> None:
    hostile.claim(hostile.CLAIM.replace("[42, 43]", "[" * 50_000 + "]" * 50_000).encode())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_claims_directory_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place, "claims")
        directory.mkdir(mode=0o700)
        os.chown(directory, 65534, 65534)
        with pytest.raises(HostError, match="is not a directory that only this user can write"):
            ClaimStore(directory)


def test_a_claims_directory_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "claims").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="is not a directory that only this user can write"):
        ClaimStore(tmp_path / "claims")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lock_behind_a_symlink_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "claims"
    directory.mkdir(mode=0o700)
    (directory / ".lock").symlink_to(tmp_path / "made-by-us")
    with pytest.raises(HostError, match="lock"):
        ClaimStore(directory)
    assert not (tmp_path / "made-by-us").exists()


def test_unreadable_metadata_is_a_refusal(rig: HostileRig) -> None:
    with pytest.raises(InputError, match="metadata cannot be read"):
        domain_xml.read(DOMAIN.replace("vlan='42'", "vlan='many'"))
    rig.hook("migrate", DOMAIN.replace("vlan='42'", "vlan='many'"))
