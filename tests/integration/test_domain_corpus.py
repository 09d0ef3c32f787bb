# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML in every shape that libvirt's schema allows, and what holds for all of it.

Interfaces, host devices and metadata are generated from the schemas of the oldest, the usual and the newest
libvirt; comments, CDATA, processing instructions, namespaces, quotes and white space are added. The schema must accept
each domain, so that nothing is tested that libvirt would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.integration.from_schema import Choices, Node, Schema, written
from tests.testbed.releases import BOOKWORM, FORKY, TRIXIE, Release
from tests.testbed.root import host_root
from vfmigrate.domain import (
    additions,
    attachment,
    device_kinds,
    domain_xml,
    metadata,
    migrating_guest,
    migrating_vf,
    storage_xml,
)
from vfmigrate.domain.attachment import Attachment
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.strategies.failover import definition
from vfmigrate.strategies.failover.definition import StandbyOptions

SCHEMAS = "usr/share/libvirt/schemas"
RELEASES = (BOOKWORM, TRIXIE, FORKY)
OTHER_DEVICES = ("input", "sound", "hostdev", "interface")
PCI = ("domain", "bus", "slot", "function")
NEW_MAC = "52:54:00:00:00:77"
# A tag, or what is between two tags.
TOKEN = re.compile(
    r"<!--.*?-->|<\?.*?\?>|<!\[CDATA\[.*?\]\]>|<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>|[^<]+", re.DOTALL
)
ATTRIBUTE = re.compile(r"\s([\w:.-]+)\s*=\s*(\"[^\"]*\"|'[^']*')")


class Corpus:
    """Domains from the schema of one libvirt."""

    def __init__(self, folder: Path) -> None:
        self.schema = Schema(folder / "domain.rng")
        self._validator = etree.RelaxNG(etree.parse(str(folder / "domain.rng")))

    def domain(self, choices: Choices) -> str:
        """A domain that the schema allows."""
        xml = written(choices, self._tree(choices))
        assert self._validator.validate(etree.fromstring(xml.encode())), self._validator.error_log
        return xml

    def _tree(self, choices: Choices) -> Node:
        devices = [*_controllers(choices)]
        for number in range(choices.number(0, 4)):
            device = self.schema.element(choices, choices.one(("interface", "hostdev")))
            devices.append(_sensible(choices, device, number) if choices.maybe(0.7) else device)
        devices += [
            self.schema.element(choices, choices.one(OTHER_DEVICES)) for _ in range(choices.number(0, 2))
        ]
        parts = [
            Node("name", content=["guest & co"]),
            Node("uuid", content=["11111111-1111-4111-8111-000000000001"]),
            Node("memory", content=["1048576"]),
            Node("os", content=[Node("type", {"machine": "pc-q35-10.0"}, ["hvm"])]),
            Node("devices", content=list(devices)),
        ]
        if choices.maybe(0.8):
            parts.append(self._metadata(choices, devices))
        return Node("domain", {"type": "kvm"}, list(choices.shuffled(parts)))

    def _metadata(self, choices: Choices, devices: list[Node]) -> Node:
        node = self.schema.element(choices, "metadata")
        node.content = [each for each in node.content if isinstance(each, Node)]
        if choices.maybe(0.6):
            marks = [mark for device in devices for mark in _marks(choices, device)]
            node.content.insert(0, Node("vfs", {}, list(marks), uri=metadata.URI))
        return node


def _controllers(choices: Choices) -> Iterator[Node]:
    if choices.maybe(0.8):
        yield Node("controller", {"type": "pci", "index": "0", "model": "pcie-root"})
        for index in range(1, choices.number(2, 6)):
            yield Node("controller", {"type": "pci", "index": str(index), "model": "pcie-root-port"})


def _sensible(choices: Choices, device: Node, number: int) -> Node:
    """The same device as people have it: of PCI, with a MAC of its own, and where libvirt puts it."""
    if device.name == "interface":
        device.attributes = {"type": "hostdev", "managed": "yes"}
        kept = [
            each
            for each in _children(device)
            if each.name not in ("mac", "source", "address", "vlan", "teaming")
        ]
        kept = [each for each in kept if each.name != "virtualport"]
        device.content = [
            Node("mac", {"address": f"52:54:00:00:00:0{number}"}),
            _source(choices, number),
            *kept,
        ]
    else:
        device.attributes = {"mode": "subsystem", "type": "pci"}
        kept = [each for each in _children(device) if each.name in ("alias", "boot", "rom", "acpi")]
        device.content = [_source(choices, number, typed=False), *kept]
    return device


def _children(node: Node) -> list[Node]:
    return [each for each in node.content if isinstance(each, Node)]


def _source(choices: Choices, number: int, *, typed: bool = True) -> Node:
    numbers = choices.one(
        [
            {"domain": "0x0000", "bus": "0x01", "slot": "0x10", "function": f"0x{number}"},
            {"bus": "1", "slot": "020", "function": str(number)},
            {"bus": "0x1F", "function": f"0{number}"},
        ]
    )
    return Node("source", {}, [Node("address", {**({"type": "pci"} if typed else {}), **numbers})])


def _marks(choices: Choices, device: Node) -> Iterator[Node]:
    """A mark, as an administrator or the daemon writes it."""
    mac = next((each.attributes["address"] for each in _children(device) if each.name == "mac"), None)
    words = {"pool": "data", "note": " address='0000:01:10.0' "}
    if choices.maybe():
        words["vlan"] = "42"
    if mac is not None:
        yield Node("vf", {**words, "mac": mac, "address": "0000:01:10.2"}, uri=metadata.URI)


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release.name)
def corpus(request: pytest.FixtureRequest) -> Corpus:
    release: Release = request.param
    return Corpus(host_root(release) / SCHEMAS)


# A failure names its seed, from which the domain follows; other seeds would not be simpler.
HELD = settings(
    deadline=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SEEDS = st.integers(0, 2**32)
LIKELY = st.integers(0, 6).map(lambda tenths: tenths / 10)


def _number(text: Optional[str]) -> int:
    """A number as libvirt reads it (virStrToLong with base 0). Raises ValueError."""
    text = text or "0"
    return int(text, 8) if re.fullmatch("0[0-7]+", text) else int(text, 0)


def _vfs(xml: str) -> Optional[list[tuple[str, PciAddress]]]:
    """The PCI devices of a domain's interfaces and hostdevs by XPath; None when libvirt could not read an address."""
    found = etree.fromstring(xml.encode()).xpath(
        "/domain/devices/interface[@type='hostdev'][source/address/@type='pci']"
        " | /domain/devices/hostdev[@type='pci'][not(@mode) or @mode='subsystem']"
    )
    try:
        return [
            (each.tag, PciAddress(*(_number(each.find("source/address").get(key)) for key in PCI)))
            for each in found
        ]
    except ValueError:
        return None


@HELD
@given(seed=SEEDS, likely=LIKELY)
def test_reading_a_domain_never_fails_otherwise_than_with_our_error(
    corpus: Corpus, seed: int, likely: float
) -> None:
    xml = corpus.domain(Choices(seed, likely))
    for read in (
        lambda: migrating_guest.read(xml, xml),
        lambda: migrating_vf.migrating_vfs(xml),
        lambda: domain_xml.macs(xml),
        lambda: metadata.of_domain(xml),
        lambda: storage_xml.disks(xml),
        lambda: attachment.check_free_port(xml),
        lambda: additions.note_controllers(xml, xml),
    ):
        with suppress(VfmigrateError):
            read()


@HELD
@given(seed=SEEDS, likely=LIKELY)
def test_every_vf_is_seen(corpus: Corpus, seed: int, likely: float) -> None:
    xml = corpus.domain(Choices(seed, likely))
    expected = _vfs(xml)
    if expected is None:
        with pytest.raises(VfmigrateError, match="PCI address"):
            domain_xml.read(xml)
        return
    seen = [each for each in domain_xml.read(xml).interfaces if each.form != "network"]
    assert [(each.form, each.address) for each in seen] == expected
    assert domain_xml.read(xml, lenient=True).interfaces == domain_xml.read(xml).interfaces


def _without(tag: str, names: tuple[str, ...]) -> str:
    """A tag without these attributes."""
    return ATTRIBUTE.sub(lambda found: "" if found[1] in names else found[0], tag)


@HELD
@given(seed=SEEDS, likely=LIKELY)
def test_rewriting_changes_addresses_and_no_other_byte(corpus: Corpus, seed: int, likely: float) -> None:
    xml = corpus.domain(Choices(seed, likely))
    if _vfs(xml) is None:
        return
    vfs = [each for each in domain_xml.read(xml).interfaces if each.address is not None]
    wanted = {vf.position: PciAddress(0xA, 0xB0 + vf.position, 3, 4) for vf in vfs}

    after = domain_xml.readdress(xml, wanted)

    assert [each.address for each in domain_xml.read(after).interfaces if each.address] == [*wanted.values()]
    old, new = TOKEN.findall(xml), TOKEN.findall(after)
    assert ("".join(old), "".join(new), len(old)) == (xml, after, len(new))
    for tag, other in zip(old, new):
        if tag.startswith("<address"):
            assert _without(tag, PCI) == _without(other, PCI)
        elif re.match(r"<\w+:vf\s", tag):
            assert _without(tag, ("address",)) == _without(other, ("address",))
        else:
            assert tag == other
    assert domain_xml.readdress(after, wanted) == after


@HELD
@given(seed=SEEDS, likely=LIKELY)
def test_attaching_and_detaching_a_vf_restores_every_byte(corpus: Corpus, seed: int, likely: float) -> None:
    xml = corpus.domain(Choices(seed, likely))
    if _vfs(xml) is None:
        return
    changed = attachment.attached(xml, Attachment(NEW_MAC, "data", "net & work", vlan=42))
    vf = attachment.find(changed, NEW_MAC)
    assert vf is not None
    assert vf.mark is not None
    assert attachment.detached(changed, vf) == xml


@HELD
@given(seed=SEEDS, likely=LIKELY)
def test_enabling_and_disabling_failover_restores_every_byte(
    corpus: Corpus, seed: int, likely: float
) -> None:
    xml = corpus.domain(Choices(seed, likely))
    try:
        macs = [each.wanted_mac for each in domain_xml.read(xml).interfaces if each.wanted_mac]
        changed = xml
        for mac in macs:
            changed = definition.enable(changed, StandbyOptions(mac=mac, bridge="br & data"))
    except VfmigrateError:
        return
    for mac in macs:
        changed = definition.disable(changed, mac)
    assert changed == xml


@HELD
@given(seed=SEEDS)
def test_no_kind_of_device_in_the_schema_is_unknown(corpus: Corpus, seed: int) -> None:
    choices = Choices(seed, 0.0)
    pattern = choices.one(corpus.schema.references("devices"))
    device = etree.fromstring(written(choices, corpus.schema.element(choices, pattern)))
    _, found = device_kinds.judge(device)
    assert found is None or "does not know" not in found.why
