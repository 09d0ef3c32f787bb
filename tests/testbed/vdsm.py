# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of hooks and libvirt that vdsm makes, in its order, on a test host that has no vdsm.

As in vdsm 4.50: Vm._run() and _buildDomainXML(), Vm.prepare_migration(), SourceThread._startUnderlyingMigration(),
Vm.waitForMigrationDestinationPrepare(), vmdevices.network.Interface.setup() and teardown(), Vm.releaseVm(). XML goes
through ElementTree without known prefixes, as there, which renames all that it does not know.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.testbed.guest import Guest
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration, vf_addresses
from tests.testbed.vdsm_package import HOOKS, MODULE, USER

RUNNER = Path(__file__).resolve().parents[1] / "fakes" / "vdsm_hooks.py"
RUNNER_THERE = "/root/vdsm_hooks.py"
VM_URI = "http://ovirt.org/vm/1.0"


class VetoError(Exception):
    """A hook stopped vdsm; the message is what the hook wrote."""


class Vdsm:
    """vdsm on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        #: status and standard error of every script that ran, with its point
        self.log: list[tuple[str, str, int, str]] = []
        # VFs that it detached from the host, by guest
        self._detached: dict[str, list[str]] = {}
        host.write(RUNNER_THERE, RUNNER.read_text())

    def clear_away(self, guest: Guest) -> None:
        """Remove everything of this from the host; no hook runs any more."""
        self._end(guest)
        self.host.run(f"rm -f {RUNNER_THERE} /root/*.vdsm.xml")

    # -- hooks

    def xml(self, point: str, data: str, guest: Guest, device: Mapping[str, str] = {}) -> str:
        """Run a hook point with XML. Raises VetoError."""
        told = self._call(point, xml=data, vm_id=guest.uuid, device=device, vm={})
        return str(told)

    def json(self, point: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Run a hook point with JSON."""
        told: dict[str, Any] = self._call(point, json=data)
        return told

    def _call(self, point: str, **call: Any) -> Any:
        call = {"directory": HOOKS, "module": MODULE, "user": USER, "point": point, **call}
        answer = json.loads(
            self.host.run(f"python3 -I {RUNNER_THERE}", stdin=json.dumps(call).encode(), timeout=120)
        )
        self.log += [(point, *line) for line in answer["log"]]
        if answer["refusal"] is not None:
            raise VetoError(answer["refusal"].strip())
        return answer["data"]

    # -- a guest's life

    def start(self, guest: Guest, xml: str) -> None:
        """Create a guest from the engine's XML. Raises VetoError."""
        domain = ET.fromstring(xml)
        devices = domain.find("devices")
        assert devices is not None
        for device in devices.findall("interface"):
            custom = custom_of(domain, device)
            if custom:
                made = self.xml(
                    "before_device_create", ET.tostring(device, encoding="unicode"), guest, custom
                )
                devices.remove(device)
                devices.append(ET.fromstring(made))
        final = self.xml("before_vm_start", ET.tostring(domain, encoding="unicode"), guest)
        path = f"/root/{guest.name}.vdsm.xml"
        self.host.write(path, final)
        self.host.run(f"virsh define {path} && virsh start {guest.name}", timeout=120)
        self.xml("after_vm_start", self.live(guest), guest)

    def live(self, guest: Guest) -> str:
        """The XML of the running guest."""
        return self.host.run(f"virsh dumpxml {guest.name}")

    def destroy(self, guest: Guest, xml: str) -> None:
        """Release a guest, whether it runs here or not; `xml` is what this vdsm knows of it."""
        self.xml("before_vm_destroy", "", guest)
        self._end(guest)
        self.xml("after_vm_destroy", xml, guest)

    def _end(self, guest: Guest) -> None:
        self.host.run(
            f"virsh destroy {guest.name} 2> /dev/null; virsh undefine {guest.name} 2> /dev/null; true"
        )
        for vf in self._detached.pop(guest.uuid, []):
            # what fails here is only logged by vdsm
            self.host.result(f"virsh nodedev-reattach {device_name(vf)}")

    # -- a migration

    def prepare_departure(self, guest: Guest) -> None:
        """Before the destination is asked. Raises VetoError."""
        live = self.live(guest)
        for interface, custom in customised(live):
            self.xml("before_device_migrate_source", interface, guest, custom)
        self.xml("before_vm_migrate_source", live, guest)

    def prepare_arrival(self, guest: Guest, xml: str) -> None:
        """Prepare for a guest, by its live XML on the source.

        The VFs at the *source's* addresses are looked up among this host's devices and detached, before any hook runs.
        Raises CommandError when that fails, and VetoError.
        """
        detached = self._detached.setdefault(guest.uuid, [])
        for vf in vf_addresses(xml).values():
            self.host.run(f"virsh nodedev-detach {device_name(vf)}")
            detached.append(vf)
        for interface, custom in customised(xml):
            self.xml("before_device_migrate_destination", interface, guest, custom)
        self.xml("before_vm_migrate_destination", xml, guest)


def migrate(lab: Lab, guest: Guest, source: Vdsm, destination: Vdsm) -> Migration:
    """Migrate a guest as two vdsms do; on a veto, the destination releases it. Raises VetoError."""
    told = source.live(guest)
    source.prepare_departure(guest)
    try:
        destination.prepare_arrival(guest, told)
    except VetoError:
        destination.destroy(guest, told)
        raise
    migratable = ET.fromstring(source.host.run(f"virsh dumpxml --migratable {guest.name}"))
    path = f"/root/{guest.name}.to-{destination.host.name}.vdsm.xml"
    source.host.write(path, ET.tostring(migratable, encoding="unicode"))
    done = lab.migrate(guest, source.host, destination.host, "--p2p", "--persistent", "--xml", path)
    if done.result.status == 0:
        source.xml("after_vm_migrate_source", told, guest)
        live = destination.live(guest)
        destination.xml("after_vm_migrate_destination", live, guest)
        for interface, custom in customised(live):
            destination.xml("after_device_migrate_destination", interface, guest, custom)
        source.destroy(guest, told)
    else:
        destination.destroy(guest, told)
    return done


def customised(xml: str) -> list[tuple[str, dict[str, str]]]:
    """The vNICs with custom properties in a guest's XML, with these."""
    domain = ET.fromstring(xml)
    found = [(copy.copy(nic), custom_of(domain, nic)) for nic in domain.iterfind("devices/interface")]
    return [(ET.tostring(nic, encoding="unicode"), custom) for nic, custom in found if custom]


def custom_of(domain: ET.Element, interface: ET.Element) -> dict[str, str]:
    """The custom properties of a vNIC, which vdsm keeps in the guest's metadata."""
    mac = interface.find("mac")
    address = mac.get("address") if mac is not None else None
    for device in domain.iterfind(f"metadata/{{{VM_URI}}}vm/{{{VM_URI}}}device"):
        custom = device.find(f"{{{VM_URI}}}custom")
        if device.get("mac_address") == address and custom is not None:
            return {child.tag.rpartition("}")[2]: child.text or "" for child in custom}
    return {}


def device_name(vf: str) -> str:
    """How libvirt calls the PCI device at an address."""
    return "pci_" + vf.replace(":", "_").replace(".", "_")
