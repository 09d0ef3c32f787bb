# SPDX-License-Identifier: GPL-2.0-or-later
"""The live metadata of libvirt networks, through which requests reach the vfmigrated of another host.

Any client with a connection to a host's libvirt can set an element there; libvirt then sends an event to the daemon of
that host (virNetworkSetMetadata, libvirt 9.7; the event, 9.8). Definitions do not change: the live metadata of a
network is gone when the network stops. Client and server both use this class; it is thread-safe.

libvirt sends the XML of a network as one text of at most 4 MiB (VIR_NET_MESSAGE_STRING_MAX). With more metadata than
that, only libvirt's own copy below /run shows what there is (virNetworkObjSaveStatus in its src/conf/virnetworkobj.c).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Callable, Optional

import libvirt

from vfmigrate.domain import network_xml
from vfmigrate.rpc import network_message
from vfmigrate.virt.bounded import together
from vfmigrate.virt.errors import LibvirtError, libvirt_call

# Older libvirts have no metadata of networks: there are no requests through them.
_ELEMENT: Optional[int] = getattr(libvirt, "VIR_NETWORK_METADATA_ELEMENT", None)
_LIVE = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
_WHAT = "metadata of a network"

#: where libvirt saves the state of running networks, with their live metadata
STATE = Path("/run/libvirt/network")


class NetworkMetadata:
    """The requests and answers in one libvirt; `connected` returns the connection, or raises Unreachable.

    `state` is the directory where libvirt of this host saves its networks; None for that of another host.
    All methods raise HostError when libvirt refuses, for example because the network was stopped.
    """

    def __init__(
        self,
        connected: Callable[[], Any],
        call: Callable[[str], AbstractContextManager[None]] = libvirt_call,
        *,
        state: Optional[Path] = None,
    ) -> None:
        """`call` is entered for each call of libvirt, with what is asked; it raises LibvirtError."""
        self._connected = connected
        self._call = call
        self._state = state

    def networks(self) -> dict[str, str]:
        """The running networks that a vfmigrated has defined, sorted, with the names of their pools.

        None in a libvirt that is too old.
        """
        if _ELEMENT is None:
            return {}
        with self._call(_WHAT):
            found = self._connected().listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        owned = {each.name(): self._metadata(each, network_xml.URI) for each in found}
        return {name: network_xml.pool_in(owned[name] or "") for name in sorted(owned) if owned[name]}

    def uris(self, name: str) -> list[str]:
        """The namespaces of all requests and answers in a network."""
        with self._call(_WHAT):
            network = self._network(name)
        try:
            with self._call(_WHAT):
                return network_message.uris(str(network.XMLDesc(0)))
        except LibvirtError:
            if self._state is None or "/" in name:
                raise
            try:
                with (self._state / f"{name}.xml").open(encoding="utf-8", errors="replace") as file:
                    return network_message.uris_in_file(file)
            except OSError:
                pass
            raise

    def read(self, name: str, uri: str) -> Optional[str]:
        """The element of a namespace; None when there is none, and in a network that no vfmigrated has defined."""
        return together(self._connected(), lambda connection: self._look(connection, name, uri)[1])

    def write(self, name: str, uri: str, element: str) -> None:
        """Set an element."""
        with self._call(_WHAT):
            self._network(name).setMetadata(_ELEMENT, element, network_message.PREFIX, uri, _LIVE)

    def erase(self, name: str, uri: str) -> None:
        """Remove an element, if it is there."""

        def erase(connection: Any) -> None:
            network, element = self._look(connection, name, uri)
            if element is not None:
                with self._call(_WHAT):
                    network.setMetadata(_ELEMENT, None, network_message.PREFIX, uri, _LIVE)

        together(self._connected(), erase)

    def _look(self, connection: Any, name: str, uri: str) -> tuple[Any, Optional[str]]:
        """A network and the element of a namespace in it, as for `read`."""
        with self._call(_WHAT):
            found = connection.networkLookupByName(name)
        owned = self._metadata(found, network_xml.URI) is not None
        return found, self._metadata(found, uri) if owned else None

    def _network(self, name: str) -> Any:
        return self._connected().networkLookupByName(name)

    def _metadata(self, found: Any, uri: str) -> Optional[str]:
        try:
            with self._call(_WHAT):
                return str(found.metadata(_ELEMENT, uri, _LIVE))
        except LibvirtError as error:
            if error.code in (libvirt.VIR_ERR_NO_NETWORK_METADATA, libvirt.VIR_ERR_NO_NETWORK):
                return None
            raise
