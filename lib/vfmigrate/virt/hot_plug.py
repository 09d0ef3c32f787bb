# SPDX-License-Identifier: GPL-2.0-or-later
"""Hot-plug and hot-unplug of the VFs of a running guest, with the rights of the user."""

from __future__ import annotations

import threading
from typing import Optional

import libvirt

from vfmigrate.domain import domain_xml
from vfmigrate.errors import Cancelled, HostError
from vfmigrate.virt.connection import LibvirtConnection
from vfmigrate.virt.errors import libvirt_call
from vfmigrate.virt.unplug import unplug

#: seconds for a guest to release a device: its driver stops, and the button of an emulated slot takes five
UNPLUG_SECONDS = 30.0


class HotPlug:
    """The VFs of one guest, by MAC."""

    def __init__(self, connection: LibvirtConnection, uuid: str) -> None:
        self._connection = connection
        self._uuid = uuid

    def text(self, mac: str) -> Optional[str]:
        """The XML of the VF with this MAC, a network not resolved; None when the guest does not have it."""
        with libvirt_call("the guest's XML"):
            xml = str(self._connection.domain(self._uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
        for interface in domain_xml.read(xml).interfaces:
            if interface.wanted_mac == mac:
                return domain_xml.device(xml, interface.position)
        return None

    def detach(self, mac: str, text: str, cancelled: threading.Event) -> None:
        """Unplug a VF, and return when the guest has released it.

        Raises HostError when it does not in time, Cancelled when the user cancels.
        """
        if cancelled.is_set() or not unplug(
            lambda: self.text(mac), lambda _: self._ask(text), UNPLUG_SECONDS, pause=cancelled.wait
        ):
            if cancelled.is_set():
                raise Cancelled(f"cancelled while the guest released its VF with MAC {mac}")
            raise HostError(
                f"the guest did not release its VF with MAC {mac} within {UNPLUG_SECONDS:.0f} s",
                "see its console: its system must run, with PCI hot-plug",
            )

    def _ask(self, text: str) -> None:
        with libvirt_call("unplugging"):
            self._connection.domain(self._uuid).detachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def attach(self, text: str) -> None:
        """Plug a device in, on the running guest only. Raises HostError."""
        with libvirt_call("plugging in"):
            self._connection.domain(self._uuid).attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)
