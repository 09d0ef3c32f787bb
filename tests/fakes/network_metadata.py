# SPDX-License-Identifier: GPL-2.0-or-later
"""Network metadata in memory, with the interface of `vfmigrate.virt.network_metadata.NetworkMetadata`."""

from __future__ import annotations

import threading
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.rpc.network_message import is_ours


class MemoryNetworkMetadata:
    """Requests and answers in running networks; `on_change` is libvirt's event."""

    def __init__(self, *networks: str) -> None:
        self.elements: dict[str, dict[str, str]] = {name: {} for name in networks}
        self.on_change: Callable[[str, str], None] = lambda _network, _uri: None
        self.read_only = False
        #: networks that this user may not write
        self.locked: set[str] = set()
        #: the networks have so much metadata that libvirt cannot send their XML
        self.too_large = False
        self._lock = threading.Lock()

    def networks(self) -> dict[str, str]:
        return {name: name.removeprefix("vfmigrate-") for name in sorted(self.elements)}

    def uris(self, name: str) -> list[str]:
        if self.too_large:
            raise HostError("libvirt: metadata of a network: Unable to encode message payload")
        return [uri for uri in self._elements(name) if is_ours(uri)]

    def read(self, name: str, uri: str) -> Optional[str]:
        return self._elements(name).get(uri)

    def write(self, name: str, uri: str, element: str) -> None:
        if self.read_only or name in self.locked:
            raise HostError("libvirt: operation forbidden for read only access")
        with self._lock:
            self._elements(name)[uri] = element
        self.on_change(name, uri)

    def erase(self, name: str, uri: str) -> None:
        with self._lock:
            there = self._elements(name).pop(uri, None)
        if there is not None:
            self.on_change(name, uri)

    def restart(self, name: str) -> None:
        """Stop a network and start it again, which discards its live metadata."""
        self.elements[name] = {}

    def stop(self, name: str) -> None:
        """Stop a network."""
        del self.elements[name]

    def _elements(self, name: str) -> dict[str, str]:
        if name not in self.elements:
            raise HostError(f"libvirt: network '{name}' is not active")
        return self.elements[name]
