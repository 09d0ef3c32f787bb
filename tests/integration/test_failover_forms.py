# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate failover` on every form of a VF and of a standby, and on every definition that it refuses.

libvirt validates each definition by its schema and its own rules, before and after. The change is compared with
`failover_forms/FORM.diff`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE
from tests.integration.pair import Node, Pair
from tests.integration.test_failover import ALIAS, GUEST, MAC, definition, failover
from tests.testbed.run import CommandError

pytestmark = pytest.mark.hosts

EXPECTED = Path(__file__).with_name("failover_forms")
LINUX_BRIDGE = "br-linux"
LAN = f"""\
<network>
  <name>lan</name>
  <forward mode='bridge'/>
  <bridge name='{BRIDGE}'/>
  <virtualport type='openvswitch'/>
</network>
"""
ON_BRIDGE = ("--standby-bridge", BRIDGE)


@dataclass(frozen=True)
class Form:
    """A form of a VF and a form of a standby."""

    vf: str
    words: tuple[str, ...]
    vlan: bool = False
    managed: bool = True


FORMS = {
    "interface": Form("interface", ON_BRIDGE),
    "interface-unmanaged": Form("interface", ON_BRIDGE, managed=False),
    "interface-tagged": Form("interface", (*ON_BRIDGE, "--vlan", "42")),
    "interface-tagged-by-metadata": Form("interface", ON_BRIDGE, vlan=True),
    "interface-linux-bridge": Form("interface", ("--standby-bridge", LINUX_BRIDGE)),
    "interface-alias": Form("interface", (*ON_BRIDGE, "--alias", "ua-net0")),
    "interface-network": Form("interface", ("--standby-network", "lan")),
    "hostdev": Form("hostdev", ON_BRIDGE),
    "network": Form("network", ON_BRIDGE),
    "network-tagged": Form("network", (*ON_BRIDGE, "--vlan", "42")),
}


@pytest.fixture
def host(pair: Pair) -> Iterator[Node]:
    """A host with bridges and networks of every kind."""
    node = pair.a
    node.host.run("ip", "link", "add", LINUX_BRIDGE, "type", "bridge")
    node.make_network("data")
    node.host.virsh("net-create", "/dev/stdin", stdin=LAN)
    yield node
    node.host.run("ip", "link", "delete", LINUX_BRIDGE)


def difference(before: str, after: str) -> str:
    """The definition without the id that libvirt invents for each port of Open vSwitch."""
    new = re.sub(r"interfaceid='[^']*'", "interfaceid='UUID'", after)
    lines = difflib.unified_diff(before.splitlines(), new.splitlines(), "before", "after", n=1, lineterm="")
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("name", FORMS)
def test_enabling_and_disabling_failover_leaves_each_form_as_it_was(host: Node, name: str) -> None:
    form = FORMS[name]
    vf = Vf(host.vf(1), MAC, form=form.vf, vlan=42 if form.vlan else None, managed=form.managed)
    host.host.virsh("define", "--validate", "/dev/stdin", stdin=Guest(GUEST, [vf]).xml())
    before = definition(host)

    status, _, error = failover(host, "enable", GUEST, *form.words)

    assert (status, error) == (0, "")
    after = definition(host)
    host.host.virsh("define", "--validate", "/dev/stdin", stdin=after)
    assert definition(host) == after
    assert difference(before, after) == (EXPECTED / f"{name}.diff").read_text()
    if form.managed:  # nothing else binds the driver here
        host.host.virsh("start", GUEST)  # QEMU accepts it too
        host.host.virsh("destroy", GUEST)
    assert failover(host, "disable", GUEST)[0] == 0
    assert definition(host) == before


# -- refused

Change = Callable[[str], str]


def devices(text: str) -> Change:
    """Add devices."""
    return lambda xml: xml.replace("<memballoon", f"{text}<memballoon")


def at(address: str, port: str = "") -> Change:
    """Put the VF at an address behind a PCI port of the guest."""
    return lambda xml: xml.replace(
        "</source></interface>", f"</source><address type='pci' {address}/></interface>"
    ).replace("<controller type='usb'", f"{port}<controller type='usb'")


def root_port(target: str = "") -> str:
    return f"<controller type='pci' index='1' model='pcie-root-port'>{target}</controller>"


def mark(words: str) -> Change:
    """Add to the VF's metadata."""
    return lambda xml: xml.replace(
        f"<vfmigrate:vf mac='{MAC}' pool='data'/>", f"<vfmigrate:vf mac='{MAC}' pool='data' {words}/>"
    )


def as_is(xml: str) -> str:
    return xml


def on_i440fx(xml: str) -> str:
    return xml.replace("pc-q35-10.0", "pc-i440fx-10.0")


def with_vlan(xml: str) -> str:
    return xml.replace("</source></interface>", "</source><vlan><tag id='42'/></vlan></interface>")


def without_mac(xml: str) -> str:
    """A plain <hostdev> whose metadata has no MAC."""
    start, end = xml.index("<interface"), xml.index("</interface>") + len("</interface>")
    source = xml[xml.index("<source>", start) : xml.index("</source>", start) + len("</source>")]
    source = source.replace("address type='pci'", "address")
    hostdev = f"<hostdev mode='subsystem' type='pci' managed='yes'>{source}</hostdev>"
    return (xml[:start] + hostdev + xml[end:]).replace(f"<vfmigrate:vf mac='{MAC}' pool='data'/>", "")


def second_vf(xml: str) -> str:
    """Another VF like the first."""
    start, end = xml.index("<interface"), xml.index("</interface>") + len("</interface>")
    other = xml[start:end].replace(MAC, "52:54:00:00:00:03").replace("function='0x3'", "function='0x4'")
    return xml[:end] + other + xml[end:]


def sharing(xml: str) -> str:
    """Two VFs behind one standby."""
    two = second_vf(xml).replace(
        "</source></interface>", f"</source><teaming type='transient' persistent='{ALIAS}'/></interface>"
    )
    standby = (
        f"<interface type='bridge'><mac address='{MAC}'/><source bridge='{BRIDGE}'/>"
        "<virtualport type='openvswitch'/><model type='virtio'/><teaming type='persistent'/>"
        f"<alias name='{ALIAS}'/></interface>"
    )
    return devices(standby)(two)


TWIN = (
    f"<interface type='bridge'><mac address='{MAC}'/><source bridge='{LINUX_BRIDGE}'/>"
    "<model type='e1000e'/></interface>"
)
RNG = f"<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='{ALIAS}'/></rng>"
TAGGED = (*ON_BRIDGE, "--vlan", "42")


@dataclass(frozen=True)
class Case:
    """A definition that cannot have a pair, the options, and the message."""

    change: Change
    words: tuple[str, ...]
    told: str


REFUSED = {
    "model": Case(devices(TWIN), ON_BRIDGE, f"has another interface with MAC {MAC}, of model 'e1000e'"),
    "alias-taken": Case(devices(RNG), ON_BRIDGE, f"has the alias '{ALIAS}' already"),
    "alias-dropped": Case(
        as_is, (*ON_BRIDGE, "--alias", "standby"), "libvirt does not keep the alias 'standby'"
    ),
    "shared-standby": Case(sharing, (*ON_BRIDGE, "--mac", MAC), f"shares its standby '{ALIAS}' with another"),
    "several-vfs": Case(second_vf, ON_BRIDGE, "has several VFs"),
    "strategy-vfio": Case(mark("strategy='vfio'"), ON_BRIDGE, "the strategy 'vfio'"),
    "strategy-replug": Case(mark("strategy='replug'"), ON_BRIDGE, "the strategy 'replug'"),
    "other-vlan": Case(mark("vlan='43'"), TAGGED, "in VLAN 43 and its standby"),
    "vlan-on-linux-bridge": Case(
        as_is, ("--standby-bridge", LINUX_BRIDGE, "--vlan", "42"), "a VLAN only on a bridge of Open vSwitch"
    ),
    "vlan-of-the-vf": Case(with_vlan, ON_BRIDGE, "has a <vlan>"),
    "no-mac": Case(without_mac, ON_BRIDGE, "has no MAC"),
    "no-pci-express": Case(on_i440fx, ON_BRIDGE, "which has no PCI Express"),
    "on-the-root": Case(at("bus='0x00' slot='0x08' function='0x0'"), ON_BRIDGE, "is on a pcie-root in"),
    "function": Case(
        at("bus='0x01' slot='0x00' function='0x1'", root_port()), ON_BRIDGE, "shares its slot in guest"
    ),
    "multifunction": Case(
        at("bus='0x01' slot='0x00' function='0x0' multifunction='on'", root_port()),
        ON_BRIDGE,
        "shares its slot in guest",
    ),
    "no-hot-plug": Case(
        at("bus='0x01' slot='0x00' function='0x0'", root_port("<target hotplug='off'/>")),
        ON_BRIDGE,
        "pcie-root-port without hot-plug",
    ),
    "network-of-vfs": Case(as_is, ("--standby-network", "data"), "the network 'data' is a network of VFs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pair_that_cannot_work_is_refused_and_the_definition_stays(host: Node, name: str) -> None:
    case = REFUSED[name]
    xml = case.change(Guest(GUEST, [Vf(host.vf(1), MAC)]).xml())
    host.host.virsh("define", "--validate", "/dev/stdin", stdin=xml)
    before = definition(host)
    for asked in (("--dry-run",), ()):
        status, told, error = failover(host, "enable", GUEST, *case.words, *asked)
        assert status == 1
        assert told == ""
        assert case.told in error
        assert len(error.splitlines()) == 1
    assert definition(host) == before


def test_enabling_failover_does_not_replace_a_standby(host: Node) -> None:
    host.define_guest(Guest(GUEST, [Vf(host.vf(1), MAC)]))
    assert failover(host, "enable", GUEST, *ON_BRIDGE)[0] == 0
    before = definition(host)
    status, _, error = failover(host, "enable", GUEST, "--standby-bridge", LINUX_BRIDGE)
    assert (status, "has another standby already" in error) == (1, True)
    assert definition(host) == before


def test_a_pair_that_vfmigrate_did_not_make_is_left_alone(host: Node) -> None:
    host.define_guest(Guest(GUEST, [Vf(host.vf(1), MAC)]))
    assert failover(host, "enable", GUEST, *ON_BRIDGE)[0] == 0
    foreign = definition(host).replace("urn:vfmigrate:added:1", "urn:of:another")
    host.host.virsh("define", "--validate", "/dev/stdin", stdin=foreign)
    before = definition(host)
    status, _, error = failover(host, "disable", GUEST)
    assert (status, "was not made by vfmigrate" in error) == (1, True)
    assert definition(host) == before


@pytest.mark.parametrize("model", ["e1000e", "rtl8139"])
def test_a_standby_that_is_not_virtio_is_refused_by_libvirt_itself(host: Node, model: str) -> None:
    """Libvirt defines no such guest, so `enable` never sees one; the hook checks it nevertheless."""
    xml = sharing(Guest(GUEST, [Vf(host.vf(1), MAC)]).xml())
    with pytest.raises(CommandError, match="must be <model type='virtio'/>"):
        host.host.virsh(
            "define", "--validate", "/dev/stdin", stdin=xml.replace("type='virtio'", f"type='{model}'")
        )


# a standby must be on a bridge of this host, or on a network of such a bridge
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--standby-bridge", "br-none"), "there is no bridge 'br-none' on this host"),
        (("--standby-network", "none"), "libvirt has no network 'none'"),
        ((*ON_BRIDGE, "--mac", "52:54:00:00:00:09"), "has no VF with MAC 52:54:00:00:00:09"),
    ],
)
def test_a_missing_bridge_or_network_is_refused_and_the_definition_stays(
    host: Node, words: tuple[str, ...], told: str
) -> None:
    host.define_guest(Guest(GUEST, [Vf(host.vf(1), MAC)]))
    before = definition(host)
    status, _, error = failover(host, "enable", GUEST, *words)
    assert (status, told in error, len(error.splitlines())) == (1, True, 1)
    assert definition(host) == before
