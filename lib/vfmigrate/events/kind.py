# SPDX-License-Identifier: GPL-2.0-or-later
"""One kind of event."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EventKind:
    """One kind of event.

    Its MESSAGE_ID (https://systemd.io/CATALOG/) never changes: administrators match and alert on it. So a new kind gets
    a new one (`systemd-id128 new`), and that of a kind that is gone is not used again.
    """

    #: the value of VFMIGRATE_EVENT; changes of a guest's state and refusals have more specific ones
    name: str
    message_id: str
    subject: str
    #: what happened
    text: str
    #: what the administrator can do; empty where there is nothing to do
    remedy: str = ""
    #: the fields that an entry can have, without the prefix VFMIGRATE_ and in lower case
    fields: tuple[str, ...] = ()
