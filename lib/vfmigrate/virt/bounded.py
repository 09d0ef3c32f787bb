# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's objects with a limit on every call.

libvirt's library waits for an answer as long as the connection lives, and nothing can interrupt it. Keep-alive notices
that a daemon is gone, but not that a daemon which answers it is stuck in one call: waiting for QEMU's monitor, for the
lock of a domain, or for another daemon of libvirt (with modular daemons, virtqemud asks virtnetworkd). So each call is
made in a thread that can be given up (vfmigrate.uninterruptible).
"""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

from vfmigrate import uninterruptible
from vfmigrate.deadline import Door
from vfmigrate.errors import Unreachable

DOMAINS = Door("libvirt", "see systemctl status libvirtd virtqemud", Unreachable)
#: apart, since with modular daemons another one answers: guests can still be asked for while it hangs
NETWORKS = Door("libvirt (networks)", "see systemctl status libvirtd virtnetworkd", Unreachable)

#: calls that change something: QEMU, the guest or a host driver has a part in them
_CHANGES = frozenset({"attachDeviceFlags", "detachDeviceFlags", "create", "destroy"})
#: calls that ask nobody
_LOCAL = frozenset({"UUIDString", "name"})

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Who is waited for, and for how many seconds."""

    domains: Door = DOMAINS
    networks: Door = NETWORKS
    seconds: float = 10.0
    #: for calls that change something
    seconds_of_changes: float = 30.0
    #: entered around each call: turns errors of libvirt-python into others
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


#: those of the daemon, whose other work waits
DAEMON = Limits()


class Bounded:
    """An object of libvirt-python whose calls return in time, or raise Unreachable or OutOfTimeError.

    What the calls return is bounded as well, where it is such an object or a list of them.
    """

    def __init__(self, wrapped: Any, limits: Limits = DAEMON) -> None:
        self._wrapped = wrapped
        self._limits = limits

    @property
    def unbounded(self) -> Any:
        """The object itself, for calls that take as long as a migration, and for `together`."""
        return self._wrapped

    @property
    def limits(self) -> Limits:
        """Its limits."""
        return self._limits

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        return attribute if name in _LOCAL else functools.partial(self._call, name, attribute)

    def _call(self, name: str, function: Any, *arguments: Any) -> Any:
        limits = self._limits
        of_network = "network" in name.lower() or _class_of(self._wrapped) == "virNetwork"
        seconds = limits.seconds_of_changes if name in _CHANGES else limits.seconds
        door = limits.networks if of_network else limits.domains
        with limits.around():
            given = [_unbounded(each) for each in arguments]
            return _bounded(uninterruptible.call(door, seconds, function, *given, what=name), limits)


def together(connection: Any, function: Callable[[Any], T]) -> T:
    """What `function` returns for a connection, bounded or not; its calls, about networks, have one limit together.

    Each bounded call changes threads twice, which takes longer on a busy host than the call itself.
    """
    if not isinstance(connection, Bounded):
        return function(connection)
    limits = connection.limits
    with limits.around():
        return uninterruptible.call(
            limits.networks, limits.seconds, function, connection.unbounded, what="metadata"
        )


def _class_of(value: Any) -> str:
    return type(value).__name__


def _bounded(value: Any, limits: Limits) -> Any:
    if isinstance(value, list):
        return [_bounded(each, limits) for each in value]
    return Bounded(value, limits) if _class_of(value).startswith("vir") else value


def _unbounded(value: Any) -> Any:
    """What a call of libvirt-python takes as an argument."""
    if isinstance(value, list):
        return [_unbounded(each) for each in value]
    return value.unbounded if isinstance(value, Bounded) else value
