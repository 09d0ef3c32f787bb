# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a namespace host: prints libvirt's lifecycle events, one a line, after a first line `ready`."""

from __future__ import annotations

from typing import Any

import libvirt

# virDomainEventType and its details, as far as tests use them (libvirt-domain.h).
EVENTS = {
    "defined": libvirt.VIR_DOMAIN_EVENT_DEFINED,
    "undefined": libvirt.VIR_DOMAIN_EVENT_UNDEFINED,
    "started": libvirt.VIR_DOMAIN_EVENT_STARTED,
    "suspended": libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
    "resumed": libvirt.VIR_DOMAIN_EVENT_RESUMED,
    "stopped": libvirt.VIR_DOMAIN_EVENT_STOPPED,
}
DETAILS = {
    ("started", libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED): "booted",
    ("started", libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED): "migrated",
    ("suspended", libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED): "paused",
    ("suspended", libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED): "migrated",
    ("resumed", libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED): "unpaused",
    ("resumed", libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED): "migrated",
    ("stopped", libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED): "destroyed",
    ("stopped", libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED): "migrated",
    ("stopped", libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED): "failed",
}


def show(_connection: object, _domain: Any, event: int, detail: int, _opaque: object) -> None:
    """Print one event."""
    if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
        return  # QEMU was asked to quit; whether it reports that before it is killed is chance
    name = next((name for name, number in EVENTS.items() if number == event), str(event))
    print(f"{name} {DETAILS.get((name, detail), detail)}", flush=True)


def main() -> None:
    """Print events until ended."""
    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open("qemu:///system")
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, show, None)
    print("ready", flush=True)
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main()
