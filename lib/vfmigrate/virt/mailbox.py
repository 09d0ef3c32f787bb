# SPDX-License-Identifier: GPL-2.0-or-later
"""The place in libvirt where a host's vfmigrated gets letters: the live metadata of its pools' networks.

Whoever has a connection to a host's libvirt can leave an element there, libvirt tells its own listeners of it, and
the daemon of that host is one (virNetworkSetMetadata, libvirt 9.7; its event, 9.8). Nothing is written to a
definition: the metadata of a running network is gone when it is stopped. Both ends use this door; it is thread-safe.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import libvirt

from vfmigrate.domain import network_xml
from vfmigrate.rpc import network_metadata
from vfmigrate.virt.errors import LibvirtError, libvirt_call

# Older libvirts have no metadata of networks: nobody leaves letters there, and nobody finds any.
_ELEMENT: Optional[int] = getattr(libvirt, "VIR_NETWORK_METADATA_ELEMENT", None)
_LIVE = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
_WHAT = "metadata of a network"


class Mailbox:
    """The letters at the end of a connection; `connected` gives it, or raises Unreachable.

    Every method raises HostError where libvirt refuses, as for a network that has been stopped. A libvirt that is too
    old for letters has no networks to look for them in.
    """

    def __init__(self, connected: Callable[[], Any]) -> None:
        self._connected = connected

    def networks(self) -> list[str]:
        """The running networks in which letters are read: those that a vfmigrated has made for its pools."""
        if _ELEMENT is None:
            return []
        with libvirt_call(_WHAT):
            found = self._connected().listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        return sorted(each.name() for each in found if self._metadata(each, network_xml.URI) is not None)

    def uris(self, name: str) -> list[str]:
        """The namespaces of all letters in a network."""
        with libvirt_call(_WHAT):
            xml = str(self._network(name).XMLDesc(0))
        return list(network_metadata.uris(xml))

    def read(self, name: str, uri: str) -> Optional[str]:
        """The element of a letter; None when there is none, or when no vfmigrated made the network."""
        with libvirt_call(_WHAT):
            found = self._network(name)
        return self._metadata(found, uri) if self._metadata(found, network_xml.URI) is not None else None

    def write(self, name: str, uri: str, element: str) -> None:
        """Leave a letter."""
        with libvirt_call(_WHAT):
            self._network(name).setMetadata(_ELEMENT, element, network_metadata.PREFIX, uri, _LIVE)

    def erase(self, name: str, uri: str) -> None:
        """Take a letter away; nothing when it is gone."""
        if self.read(name, uri) is not None:
            with libvirt_call(_WHAT):
                self._network(name).setMetadata(_ELEMENT, None, network_metadata.PREFIX, uri, _LIVE)

    def _network(self, name: str) -> Any:
        return self._connected().networkLookupByName(name)

    @staticmethod
    def _metadata(found: Any, uri: str) -> Optional[str]:
        try:
            with libvirt_call(_WHAT):
                return str(found.metadata(_ELEMENT, uri, _LIVE))
        except LibvirtError as error:
            if error.code in (libvirt.VIR_ERR_NO_NETWORK_METADATA, libvirt.VIR_ERR_NO_NETWORK):
                return None
            raise
