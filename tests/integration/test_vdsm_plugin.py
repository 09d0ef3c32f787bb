# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's scripts around real libvirt and a real `virsh migrate`, in the order in which vdsm runs them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Optional
from xml.etree import ElementTree as ET

import pytest

from tests.integration.guests import EMULATOR, Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair, start_products

pytestmark = pytest.mark.hosts

TREE = Path(__file__).parents[2]
HOOKS = "/usr/libexec/vdsm/hooks"
CONFIGURATION = "/etc/vfmigrate/vfmigrate.conf.d/50-vdsm.conf"
USER = "nobody"
VM = "22222222-2222-4222-8222-000000000001"
MAC = "56:6f:1a:00:00:01"
PROPERTIES = {"vfmigrate_strategy": "vfio", "vfmigrate_pool": "data", "vfmigrate_vlan": "43"}
BRIDGE = f"""<interface type="bridge">
  <mac address="{MAC}"/>
  <model type="virtio"/>
  <source bridge="ovirtmgmt"/>
  <mtu size="9000"/>
  <filterref filter="vdsm-no-mac-spoofing"/>
  <link state="up"/>
  <boot order="1"/>
  <alias name="ua-7f2d4f0e-1111-4000-8000-000000000001"/>
  <address type="pci" domain="0x0000" bus="0x01" slot="0x00" function="0x0"/>
</interface>"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plugin")
    subprocess.run(["make", "-s", "-C", TREE, "install-vdsm", f"DESTDIR={root}"], check=True)
    return root


@pytest.fixture
def ovirt(pair: Pair, staged: Path) -> Iterator[Pair]:
    """Two hosts with vfmigrate and the plugin, which the user nobody runs instead of vdsm."""
    for node in (pair.a, pair.b):
        subprocess.run(["cp", "-a", f"{staged}/usr", node.host.path("/")], check=True)
        node.host.write(CONFIGURATION, f"[daemon]\nclients = {USER}\n")
    start_products(pair)
    yield pair
    for node in (pair.a, pair.b):
        node.host.path(CONFIGURATION).unlink()
        for directory in (HOOKS, "/usr/share/vfmigrate/vdsm_plugin"):
            shutil.rmtree(node.host.path(directory))


def hook(node: Node, point: str, data: str, custom: Optional[dict[str, str]] = None) -> tuple[int, str, str]:
    """Run a hook point on a host as vdsm would; returns status, data and standard error."""
    node.host.write("/tmp/hook-data", data, 0o666)
    variables = {"PATH": "/usr/bin:/bin", **(custom or {}), "vmId": VM, "_hook_domxml": "/tmp/hook-data"}
    done = node.host.run(
        "setpriv",
        f"--reuid={USER}",
        "--regid=65534",
        "--clear-groups",
        "env",
        "-i",
        *(f"{key}={value}" for key, value in variables.items()),
        f"{HOOKS}/{point}/50_vfmigrate",
        check=False,
    )
    return done.returncode, node.host.path("/tmp/hook-data").read_text(), done.stderr


def domain(interface: str) -> str:
    """A guest as vdsm passes it to libvirt: with vdsm's metadata and aliases, without vfmigrate's metadata."""
    return f"""<domain type='qemu' xmlns:ovirt-vm='http://ovirt.org/vm/1.0'>
  <name>ovirt-guest</name><uuid>{VM}</uuid>
  <metadata><ovirt-vm:vm><ovirt-vm:clusterVersion>4.8</ovirt-vm:clusterVersion>
    <ovirt-vm:device mac_address="{MAC}"><ovirt-vm:network>data</ovirt-vm:network><ovirt-vm:custom>
      <ovirt-vm:vfmigrate_strategy>vfio</ovirt-vm:vfmigrate_strategy>
    </ovirt-vm:custom></ovirt-vm:device></ovirt-vm:vm></metadata>
  <memory unit='MiB'>32</memory><memtune><hard_limit unit='MiB'>1</hard_limit></memtune>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu><features><acpi/></features>
  <devices><emulator>{EMULATOR}</emulator><controller type='usb' model='none'/>{interface}
    <memballoon model='none'/></devices>
</domain>"""


def start(node: Node) -> str:
    """Start the guest as vdsm does; the VF's address."""
    status, interface, error = hook(node, "before_device_create", BRIDGE, PROPERTIES)
    assert status == 0, error
    status, xml, error = hook(node, "before_vm_start", domain(interface))
    assert (status, error) == (0, "")
    node.host.virsh("define", "--validate", "/dev/stdin", stdin=xml)
    node.host.virsh("start", "ovirt-guest")
    (vf,) = node.product.claims()
    return str(vf)


def test_a_vdsm_guest_starts_and_stops(ovirt: Pair) -> None:
    a = ovirt.a
    before = a.state()
    vf = start(a)
    (port,) = a.switch_ports().values()
    assert (port.tag, port.ids["attached-mac"]) == (43, MAC)
    (claim,) = a.product.claims().values()
    assert (claim["domain_name"], claim["expires"], claim["strategy"]) == ("ovirt-guest", None, "vfio")
    xml = a.host.virsh("dumpxml", "ovirt-guest")
    for survived in (
        "<alias name='ua-7f2d4f0e-1111-4000-8000-000000000001'/>",
        "<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>",
        "<boot order='1'/>",
        "<ovirt-vm:network>data</ovirt-vm:network>",
    ):
        assert survived in xml
    # a client cannot release the VF of a running guest
    hook(a, "after_vm_destroy", xml)
    assert list(a.product.claims()) == [vf]
    a.host.virsh("destroy", "ovirt-guest")
    assert hook(a, "after_vm_destroy", xml)[0] == 0
    a.host.virsh("undefine", "ovirt-guest")
    assert a.state() == before


def test_a_vdsm_guest_migrates_to_the_vf_that_the_plugin_claimed(ovirt: Pair) -> None:
    a, b = ovirt.a, ovirt.b
    b.restart_libvirtd()  # vdsm lists the VFs that the guest started with
    before, before_there = a.state(), b.state()
    vf = start(a)
    a.wait_until_settled()
    xml = a.host.virsh("dumpxml", "ovirt-guest")
    for _ in range(2):  # vdsm retries while the destination is busy
        assert hook(a, "before_vm_migrate_source", xml)[::2] == (0, "")
    # as vdsm sees it on hosts with equal addresses: the source's VF exists on the destination too
    wanted = b.vf(2)
    there = xml.replace(f"bus='0x{vf[5:7]}' slot='0x{vf[8:10]}' function='0x{vf[11]}'", "WANTED", 1).replace(
        "WANTED", f"bus='0x{wanted[5:7]}' slot='0x{wanted[8:10]}' function='0x{wanted[11]}'"
    )
    assert there != xml
    # vdsm detaches it from the host before it runs a hook, because it takes it for this host's VF
    device = f"pci_{wanted.replace(':', '_').replace('.', '_')}"
    b.host.virsh("nodedev-detach", device)
    assert hook(b, "before_vm_migrate_destination", there)[::2] == (0, "")
    assert list(b.product.claims()) == [wanted]
    # vdsm passes the migratable XML to libvirt with renamed prefixes
    migratable = ET.tostring(ET.fromstring(a.host.virsh("dumpxml", "--migratable", "ovirt-guest")), "unicode")
    assert "ovirt-vm:" not in migratable
    a.host.write("/tmp/migratable.xml", migratable)

    outcome = a.migrate("ovirt-guest", b, "--persistent", "--undefinesource", "--xml", "/tmp/migratable.xml")

    assert outcome.status == 0, outcome.error
    assert list(b.product.claims()) == [wanted]
    assert [port.tag for port in b.switch_ports().values()] == [43]
    hook(a, "after_vm_destroy", xml)
    wait_for("the source to be as it was", lambda: a.state() == before)
    xml = b.host.virsh("dumpxml", "ovirt-guest")
    b.host.virsh("destroy", "ovirt-guest")
    b.host.virsh("undefine", "ovirt-guest")
    b.host.virsh("nodedev-reattach", device)  # vdsm reattaches what it had detached
    assert hook(b, "after_vm_destroy", xml)[0] == 0
    wait_for("the destination to be as it was", lambda: b.state() == before_there)


def test_a_host_with_other_addresses_is_refused_with_the_reason(ovirt: Pair) -> None:
    a, b = ovirt.a, ovirt.b
    vf = start(a)
    a.wait_until_settled()
    before = b.state()
    status, _, error = hook(b, "before_vm_migrate_destination", a.host.virsh("dumpxml", "ovirt-guest"))
    assert status == 2
    assert (
        f"{vf} is not a VF of pool 'data' on this host; vdsm needs the VFs of a pool at the same addresses"
        in error
    )
    assert b.state() == before


def test_a_claim_for_a_guest_that_never_starts_expires(pair: Pair, staged: Path) -> None:
    a = pair.a
    subprocess.run(["cp", "-a", f"{staged}/usr", a.host.path("/")], check=True)
    a.host.write(CONFIGURATION, f"[daemon]\nclients = {USER}\n")
    try:
        a.product.start(claim_timeout=5, reconcile_interval=1)
        assert hook(a, "before_device_create", BRIDGE, PROPERTIES)[0] == 0
        assert len(a.product.claims()) == 1
        wait_for("the claim to run out", lambda: a.product.claims() == {}, 20)
    finally:
        a.host.path(CONFIGURATION).unlink()


def test_libvirt_behaves_as_docs_ovirt_assumes(pair: Pair) -> None:
    """Vdsm's calls of libvirt for a migration: the live XML on the source, nodeDeviceDettach on the destination."""
    a = pair.a
    a.product.start()
    a.wait_until_ready()
    a.make_network("data")
    a.start_guest(Guest("g", [Vf(a.vf(0), MAC, form="network")]))
    a.restart_libvirtd()  # vdsm lists the VFs that the guest started with
    assert "<interface type='hostdev'" in a.host.virsh("dumpxml", "g")
    assert "<interface type='network'>" in a.host.virsh("dumpxml", "--migratable", "g")
    # vdsm, which started the guest with a bridge's vNIC, still calls it that when it changes or unplugs it
    a.host.write(
        "/tmp/vnic.xml", f'<interface type="bridge"><mac address="{MAC}"/><source bridge="x"/></interface>'
    )
    changed = a.host.run("virsh", "update-device", "g", "/tmp/vnic.xml", "--live", check=False)
    assert changed.returncode == 1
    assert "hostdev" in changed.stderr
    unplugged = a.host.run("virsh", "detach-device", "g", "/tmp/vnic.xml", "--live", check=False)
    assert "no device" not in unplugged.stderr
    held, free = (f"pci_{a.vf(index).replace(':', '_').replace('.', '_')}" for index in (0, 2))
    refused = a.host.run("virsh", "nodedev-detach", held, check=False)
    assert refused.returncode == 1
    assert "is in use by driver QEMU, domain g" in refused.stderr
    absent = a.host.run("virsh", "nodedev-detach", "pci_0000_99_00_0", check=False)
    assert "no node device with matching name 'pci_0000_99_00_0'" in absent.stderr
    a.host.virsh("nodedev-detach", free)
    assert a.card.function(a.vf(2)).driver == "mlx5_vfio_pci"
    a.host.virsh("nodedev-reattach", free)
    assert a.card.function(a.vf(2)).driver is None
