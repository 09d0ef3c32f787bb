# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest of this host: hot-plug and hot-unplug through libvirt, with bounded waits.

It has the rights of the user. Whether the guest's driver is bound to its VF is read from the VF (sysfs), because
libvirt does not know; hence the guest must be on this host.
"""

from __future__ import annotations

import time
from typing import Any, Optional

import libvirt
from lxml import etree

from vfmigrate.domain import domain_xml, metadata, pci_xml, xml_parser
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.errors import HostError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.polling import until
from vfmigrate.virt.errors import libvirt_call
from vfmigrate.virt.unplug import unplug

_LOOK_SECONDS = 0.2
# Time for a driver in the guest to start for a new device; the host cannot observe when it has.
_SETTLE_SECONDS = 2.0


class RunningGuest:
    """One running guest; see live_pair.Guest."""

    def __init__(self, found: Any, sysfs: Sysfs, *, patience: float) -> None:
        """`found` is libvirt's domain; `patience` is the time for each step, in seconds."""
        self._domain = found
        self._sysfs = sysfs
        self.name: str = found.name()
        self.patience = patience
        self._marks = _marks_of(self.xml())

    def xml(self) -> str:
        """Its live XML, networks not resolved: an interface of a network names no VF."""
        with libvirt_call(f"XML of guest '{self.name}'"):
            return str(self._domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))

    def plug(self, device: str) -> None:
        """Plug a device in."""
        with libvirt_call(f"plugging a device into guest '{self.name}'"):
            self._domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def unplug(self, device: str) -> bool:
        """Ask the guest to release a device; False when it does not in time."""
        return unplug(lambda: self._found(device), self._detach, self.patience)

    def _detach(self, device: str) -> None:
        with libvirt_call(f"unplugging a device from guest '{self.name}'"):
            self._domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def settle(self) -> None:
        """Give the guest time to start its driver for a device that was just plugged in."""
        time.sleep(min(_SETTLE_SECONDS, self.patience))

    def takes_vf(self, mac: str) -> bool:
        """Wait for the guest's driver to bind to its VF; False when it does not in time."""
        with libvirt_call(f"XML of guest '{self.name}'"):
            found = _vf(str(self._domain.XMLDesc(0)), mac)
        address = found.address if found is not None else None
        return address is not None and until(
            lambda: self._sysfs.bus_master(address), self.patience, _LOOK_SECONDS
        )

    def vf(self, mac: str) -> str:
        """The guest's VF at present: 'lone' for a VF by itself, 'half' for one of a pair, '' for none."""
        found = _vf(self.xml(), mac)
        return "" if found is None else "half" if found.teaming == "transient" else "lone"

    def restore_marks(self) -> None:
        """Restore the marks that the metadata had at first."""
        if self._marks is not None:
            with libvirt_call(f"metadata of guest '{self.name}'"):
                self._domain.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                    self._marks,
                    metadata.PREFIX,
                    metadata.URI,
                    libvirt.VIR_DOMAIN_AFFECT_LIVE,
                )

    def _found(self, device: str) -> Optional[str]:
        """The XML of the guest's device with the alias of this one, or else with its PCI address in the guest."""
        xml = self.xml()
        wanted = _name(xml_parser.parse(device, "the XML of a device"))
        if not wanted:
            raise HostError(f"a device of guest '{self.name}' has neither alias nor PCI address")
        for position, each in enumerate(xml_parser.parse(xml).findall("devices/*")):
            if _name(each) == wanted:
                return domain_xml.device(xml, position)
        return None


def _name(device: etree._Element) -> tuple[str, ...]:
    """What identifies a device: the halves of a pair have the same MAC."""
    alias = device.find("alias")
    if alias is not None:
        return ("alias", alias.get("name", ""))
    address = device.find("address[@type='pci']")
    if address is None:
        return ()
    return ("pci", str(pci_xml.read(address.get)))


def _vf(xml: str, mac: str) -> Optional[VfInterface]:
    """The VF with this MAC; only the MAC distinguishes it from an ordinary interface of a network."""
    return next((each for each in domain_xml.read(xml).interfaces if each.wanted_mac == mac), None)


def _marks_of(xml: str) -> Optional[str]:
    root = xml_parser.parse(xml, "the domain XML")
    present = root.find(f"metadata/{{{metadata.URI}}}vfs") is not None
    return metadata.write(metadata.read(root)) if present else None
