# SPDX-License-Identifier: GPL-2.0-or-later
"""The mailbox of a host in memory, with the interface of `vfmigrate.virt.mailbox.Mailbox`."""

from __future__ import annotations

import threading
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.rpc.network_metadata import letter_id


class MemoryMailbox:
    """Letters of running networks; `on_change` is libvirt's event."""

    def __init__(self, *networks: str) -> None:
        self.letters: dict[str, dict[str, str]] = {name: {} for name in networks}
        self.on_change: Callable[[str, str], None] = lambda _network, _uri: None
        self.read_only = False
        self._lock = threading.Lock()

    def networks(self) -> list[str]:
        return sorted(self.letters)

    def uris(self, name: str) -> list[str]:
        return [uri for uri in self._letters(name) if letter_id(uri) is not None]

    def read(self, name: str, uri: str) -> Optional[str]:
        return self._letters(name).get(uri)

    def write(self, name: str, uri: str, element: str) -> None:
        if self.read_only:
            raise HostError("libvirt: operation forbidden for read only access")
        with self._lock:
            self._letters(name)[uri] = element
        self.on_change(name, uri)

    def erase(self, name: str, uri: str) -> None:
        with self._lock:
            there = self._letters(name).pop(uri, None)
        if there is not None:
            self.on_change(name, uri)

    def restart(self, name: str) -> None:
        """Stop a network and start it again, which discards its live metadata."""
        self.letters[name] = {}

    def stop(self, name: str) -> None:
        """Stop a network."""
        del self.letters[name]

    def _letters(self, name: str) -> dict[str, str]:
        if name not in self.letters:
            raise HostError(f"libvirt: network '{name}' is not active")
        return self.letters[name]
