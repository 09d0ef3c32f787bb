# SPDX-License-Identifier: GPL-2.0-or-later
"""Hot-plug and hot-unplug of the VFs of a running guest, with the rights of the user."""

from __future__ import annotations

import threading
import time
from typing import Optional

import libvirt

from vfmigrate.domain import domain_xml
from vfmigrate.errors import Cancelled, HostError
from vfmigrate.virt.connection import LibvirtConnection
from vfmigrate.virt.errors import LibvirtError, libvirt_call

#: seconds for a guest to release a device: its driver stops, and the button of an emulated slot takes five
UNPLUG_SECONDS = 30.0
_LOOK_SECONDS = 0.1
#: after so many seconds the request is repeated: the guest may not have been ready for the first one
_ASK_AGAIN_SECONDS = 10.0


class HotPlug:
    """The VFs of one guest, by MAC."""

    def __init__(self, session: LibvirtConnection, uuid: str) -> None:
        self._session = session
        self._uuid = uuid

    def text(self, mac: str) -> Optional[str]:
        """The XML of the VF with this MAC, a network not resolved; None when the guest does not have it."""
        with libvirt_call("the guest's XML"):
            xml = str(self._session.domain(self._uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
        for interface in domain_xml.read(xml).interfaces:
            if interface.wanted_mac == mac:
                return domain_xml.device(xml, interface.position)
        return None

    def detach(self, mac: str, text: str, cancelled: threading.Event) -> None:
        """Unplug a VF, and return when the guest has released it.

        Raises HostError when it does not in time, Cancelled when the user cancels.
        """
        begun = time.monotonic()
        asked = float("-inf")
        while self.text(mac) is not None:
            now = time.monotonic()
            if cancelled.is_set():
                raise Cancelled(f"cancelled while the guest released its VF with MAC {mac}")
            if now - begun > UNPLUG_SECONDS:
                raise HostError(
                    f"the guest did not release its VF with MAC {mac} within {UNPLUG_SECONDS:.0f} s",
                    "see its console: its system must run, with PCI hot-plug",
                )
            if now - asked > _ASK_AGAIN_SECONDS:
                self._ask(text, again=asked > begun)
                asked = now
            time.sleep(_LOOK_SECONDS)

    def _ask(self, text: str, *, again: bool) -> None:
        try:
            with libvirt_call("unplugging"):
                self._session.domain(self._uuid).detachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except LibvirtError:
            if not again:  # "already in the process of unplug", or gone by now
                raise

    def attach(self, text: str) -> None:
        """Plug a device in, on the running guest only. Raises HostError."""
        with libvirt_call("plugging in"):
            self._session.domain(self._uuid).attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)
