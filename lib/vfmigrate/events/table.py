# SPDX-License-Identifier: GPL-2.0-or-later
"""All kinds of events: the one table that the log, the journal's catalogue and docs/journal.md are made from."""

from __future__ import annotations

from typing import Optional

from vfmigrate.events import of_guests, of_host
from vfmigrate.events.kind import EventKind

#: changes of a guest's state by libvirt have names such as `resumed-migrated`, all of this kind
LIBVIRT_EVENT = "libvirt-event"
#: an operation of the hook that was refused, that failed where nothing can be refused, or that came too late
REFUSED, FAILED, OVERTAKEN = "refused", "hook-failed", "hook-overtaken"

KINDS = (*of_guests.KINDS, *of_host.KINDS)

_BY_NAME = {kind.name: kind for kind in KINDS}


def find(name: str) -> Optional[EventKind]:
    """The kind of this name; None when there is none. A test holds that the code has no such name."""
    return _BY_NAME.get(name)
