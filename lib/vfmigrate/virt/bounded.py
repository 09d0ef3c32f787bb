# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's objects with a limit on every call.

libvirt's library waits for an answer as long as the connection lives, and nothing can interrupt it. Keep-alive notices
that a daemon is gone, but not that a daemon which answers it is stuck in one call: waiting for QEMU's monitor, for the
lock of a domain, or for another daemon of libvirt (with modular daemons, virtqemud asks virtnetworkd). So each call is
made in a thread that can be given up (vfmigrate.uninterruptible).
"""

from __future__ import annotations

import functools
from typing import Any, Callable, TypeVar

from vfmigrate import uninterruptible
from vfmigrate.deadline import Door
from vfmigrate.errors import Unreachable

DOMAINS = Door("libvirt", "see systemctl status libvirtd virtqemud", Unreachable)
#: apart, since with modular daemons another one answers: guests can still be asked for while it hangs
NETWORKS = Door("libvirt (networks)", "see systemctl status libvirtd virtnetworkd", Unreachable)

_SECONDS = 10.0
#: calls that change something: QEMU, the guest or a host driver has a part in them
_SECONDS_OF_CHANGES = 30.0
_CHANGES = frozenset({"attachDeviceFlags", "detachDeviceFlags", "create", "destroy"})
#: calls that ask nobody
_LOCAL = frozenset({"UUIDString", "name"})

T = TypeVar("T")


class Bounded:
    """An object of libvirt-python whose calls return in time, or raise Unreachable or OutOfTimeError.

    What the calls return is bounded as well, where it is such an object or a list of them.
    """

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    @property
    def unbounded(self) -> Any:
        """The object itself, for `together`."""
        return self._wrapped

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        return attribute if name in _LOCAL else functools.partial(self._call, name, attribute)

    def _call(self, name: str, function: Any, *arguments: Any) -> Any:
        of_network = "network" in name.lower() or _class_of(self._wrapped) == "virNetwork"
        seconds = _SECONDS_OF_CHANGES if name in _CHANGES else _SECONDS
        door = NETWORKS if of_network else DOMAINS
        return _bounded(uninterruptible.call(door, seconds, function, *arguments, what=name))


def together(connection: Any, function: Callable[[Any], T]) -> T:
    """What `function` returns for a connection, bounded or not; its calls, about networks, have one limit together.

    Each bounded call changes threads twice, which takes longer on a busy host than the call itself.
    """
    if not isinstance(connection, Bounded):
        return function(connection)
    return uninterruptible.call(NETWORKS, _SECONDS, function, connection.unbounded, what="metadata")


def _class_of(value: Any) -> str:
    return type(value).__name__


def _bounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_bounded(each) for each in value]
    return Bounded(value) if _class_of(value).startswith("vir") else value
