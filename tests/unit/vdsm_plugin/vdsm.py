# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's scripts as vdsm runs them: another user, vdsm's environment and files, a daemon on a host in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.fakes.rig import Rig
from tests.fakes.vdsm_hooks import VdsmHooks
from tests.testbed import vdsm_package
from vfmigrate.claims import claim_store
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc import protocol
from vfmigrate.rpc.server import Server, listening_socket

PLUGIN = Path(__file__).parents[3] / "vdsm_plugin"
#: those at which the plugin acts, and one at which it has nothing to do
POINTS = (*vdsm_package.POINTS, "before_vm_destroy")
POOL = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlan=42, vlans=frozenset({43}), max_migrating=2)
VM = "00000000-0000-4000-8000-0000000000aa"
MAC = "56:6f:1a:2b:00:02"
VFIO = {"vfmigrate_strategy": "vfio", "vfmigrate_pool": "data"}

# What vdsm hands over of a vNIC on a bridge (vdsm: vmdevices/network.py), with everything it may hold.
BRIDGE = """<?xml version='1.0' encoding='UTF-8'?>
<interface type="bridge">
    <mac address="56:6F:1A:2B:00:02" />
    <model type="virtio" />
    <source bridge="ovirtmgmt" />
    <mtu size="9000" />
    <port isolated="yes" />
    <filterref filter="vdsm-no-mac-spoofing" />
    <link state="up" />
    <boot order="2" />
    <driver name="vhost" queues="4" />
    <bandwidth><inbound average="1000" /></bandwidth>
    <alias name="ua-7f2d4f0e-1111-4000-8000-000000000001" />
    <address bus="0x02" domain="0x0000" function="0x0" slot="0x00" type="pci" />
</interface>
"""
ON_VF = """<interface type="hostdev" managed="yes">
    <mac address="56:6F:1A:2B:00:02"/>
    <source><address type="pci" domain="0x0000" bus="0x01" slot="{slot}" function="{function}"/></source>
    <driver name="vfio"/>
    <link state="up"/>
    <boot order="2"/>
    <alias name="ua-7f2d4f0e-1111-4000-8000-000000000001"/>
    <address bus="0x02" domain="0x0000" function="0x0" slot="0x00" type="pci"/>
</interface>"""


class Vdsm(Rig):
    """The rig, and vdsm's hook directories with the plugin in them, and the daemon that it asks."""

    def __init__(self, directory: Path, installed: Path) -> None:
        config = Config({"data": POOL}, clients=frozenset({"nobody"}), migrating_wait=0)
        super().__init__(directory, config=config)
        shutil.copytree(installed / "usr/share/vfmigrate/vdsm_plugin", directory / "modules")
        shutil.copytree(installed / "usr/libexec/vdsm/hooks", directory / "hooks")
        shutil.copytree(directory / "hooks" / "after_vm_destroy", directory / "hooks" / "before_vm_destroy")
        for point in POINTS:
            text = self.script(point).read_text()
            for original, ours in (
                ("/usr/share/vfmigrate/vdsm_plugin", directory / "modules"),
                (str(protocol.SOCKET), directory / "sock"),
            ):
                assert text.count(f'"{original}"') == 1
                text = text.replace(original, str(ours))
            self.script(point).write_text(text)
        self.hooks = VdsmHooks(directory / "hooks")
        self.point_at_devices()
        self.requests: list[str] = []
        self.server = Server(listening_socket(directory / "sock"), self.answer)
        self.server.start()
        self.up = True

    def point_at_devices(self) -> None:
        """Have the plugin look for PCI devices where those of the host in memory are."""
        for vf in self.memory.vfs:
            (self.directory / "devices" / str(vf)).mkdir(parents=True)
        module = self.directory / "modules" / "vfmigrate_vdsm" / "endings.py"
        text = module.read_text()
        assert text.count('"/sys/bus/pci/devices"') == 1
        module.write_text(text.replace("/sys/bus/pci/devices", str(self.directory / "devices")))

    def script(self, point: str) -> Path:
        return self.directory / "hooks" / point / "50_vfmigrate"

    def answer(self, request: protocol.Request, uid: int) -> Mapping[str, Any]:
        self.requests.append(request.name)
        protocol.authorize(request, uid, frozenset(), frozenset({"nobody"}))
        return self.client_requests.answer(request)

    def stop(self) -> None:
        if self.up:
            self.server.stop()
            self.up = False

    def close(self) -> None:
        self.stop()
        super().close()

    @property
    def said(self) -> str:
        """What the scripts wrote to standard error, all of them."""
        return "".join(err for _, _, err in self.hooks.log)

    def held(self, vf: PciAddress, mac: str = MAC) -> None:
        """The guest runs with this VF."""
        (claim,) = (claim for claim in self.store.all() if claim.mac == mac)
        assert claim.vf == vf
        self.store.change(claim, state=claim_store.PLUGGED, expires=None)
        self.memory.sysfs.open_groups.add(str(vf))


def canonical(xml: str) -> str:
    return ET.canonicalize(xml, strip_text=True)


def on_vf(vf: PciAddress) -> str:
    return ON_VF.format(slot=f"0x{vf.slot:02x}", function=f"0x{vf.function}")


PROPERTIES_IN_METADATA = "<ovirt-vm:vfmigrate_strategy>vfio</ovirt-vm:vfmigrate_strategy>"


def in_domain(
    *interfaces: str, marks: str = "", devices: str = "", properties: str = PROPERTIES_IN_METADATA
) -> str:
    """A domain as vdsm hands it over, with the metadata of vdsm itself."""
    return (
        '<domain type="kvm" xmlns:ns0="http://libvirt.org/schemas/domain/qemu/1.0" '
        'xmlns:ovirt-vm="http://ovirt.org/vm/1.0">'
        f"<name>web</name><uuid>{VM}</uuid><metadata><ovirt-vm:vm><ovirt-vm:device mac_address='{MAC}'>"
        f"<ovirt-vm:custom>{properties}</ovirt-vm:custom>"
        f"<ovirt-vm:network>data</ovirt-vm:network></ovirt-vm:device></ovirt-vm:vm>{marks}</metadata>"
        f"<devices>{''.join(interfaces)}{devices}</devices></domain>"
    )


def engines_vf(
    vf: PciAddress, mac: str = MAC, more: str = "", vlan: str = '<vlan><tag id="43"/></vlan>'
) -> str:
    """A vNIC on a passthrough profile, as the engine writes it."""
    return (
        f'<interface type="hostdev" managed="no"><mac address="{mac}"/>'
        f'<source><address type="pci" domain="0x0000" bus="0x01" slot="0x{vf.slot:02x}" '
        f'function="0x{vf.function}"/></source>{vlan}<driver name="vfio"/>{more}</interface>'
    )


def standby(name: str, mac: str = MAC) -> str:
    return (
        f'<interface type="bridge"><mac address="{mac}"/><source bridge="mgmt"/><model type="virtio"/>'
        f'<alias name="{name}"/><teaming type="persistent"/></interface>'
    )


def transient(name: str) -> str:
    return f'<alias name="ua-vf-{name}"/><teaming type="transient" persistent="{name}"/>'


def mark(vf: PciAddress, **facts: str) -> str:
    told = "".join(f" {key}='{value}'" for key, value in facts.items())
    # as vdsm's own libvirt hook leaves it: another prefix
    return (
        "<ns1:vfs xmlns:ns1='urn:vfmigrate:domain:1'>"
        f"<ns1:vf mac='{MAC}' address='{vf}' pool='data' vlan='43' strategy='vfio'{told}/></ns1:vfs>"
    )


def running(vdsm: Vdsm) -> PciAddress:
    vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    (claim,) = vdsm.store.all()
    vdsm.held(claim.vf)
    return claim.vf
