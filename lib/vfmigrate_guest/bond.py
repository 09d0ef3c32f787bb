# SPDX-License-Identifier: GPL-2.0-or-later
"""The bond over VF and virtio device as NetworkManager's connection profiles. Pure: devices in, profiles out.

An active-backup bond (Documentation/networking/bonding.rst) whose primary is the VF. Its ports are found by MAC, so
that a VF which comes back under another name joins by itself. Names of settings are those that NetworkManager has had
since EL8 (1.14); newer ones are used where they are there.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from vfmigrate_guest.fault import Fault
from vfmigrate_guest.nics import Nic

#: a connection profile: settings by name, each its properties by name
Profile = dict[str, dict[str, Any]]

_NAMESPACE = uuid.UUID("5b3c9e0e-5b7c-5d0a-9c8e-0f6f6d2a7c11")
# above the devices' former profiles, which are kept for when the bond is removed
_PRIORITY = 100
# defaults, which NetworkManager leaves out of a profile
_DEFAULTS = {("connection", "autoconnect"): True, ("bond-port", "prio"): 0}
#: the first NetworkManager that knows priorities of ports (bond-port.prio)
PORT_PRIORITIES = (1, 44)


@dataclass(frozen=True)
class Bond:
    """The devices to join, and the name of the bond."""

    name: str
    vf: Nic
    standby: Nic
    #: 'none', 'active' or 'follow'; see bonding.rst
    fail_over_mac: str = "active"


def identity(bond: str, part: str) -> str:
    """The UUID of a profile: the same at every run, so that a second run changes nothing."""
    return str(uuid.uuid5(_NAMESPACE, f"{bond}/{part}"))


PARTS = ("bond", "vf", "standby")


def check(bond: Bond) -> None:
    """Raises Fault for a bond that cannot work, or that is not needed."""
    if bond.vf.name == bond.standby.name:
        raise Fault(f"{bond.vf.name} is given as VF and as standby", "name two devices")
    if bond.standby.standby:
        raise Fault(
            f"{bond.standby.name} is joined with its VF by the kernel's net_failover",
            "no bond is needed in this guest",
        )
    if bond.vf.mac == bond.standby.mac:
        raise Fault(
            f"{bond.vf.name} and {bond.standby.name} have the same MAC, {bond.vf.mac}, and profiles "
            "are matched by MAC",
            "change the MAC of the virtio device, or make them a failover pair on the host: vfmigrate failover enable",
        )
    for nic in (bond.vf, bond.standby):
        if nic.master not in (None, bond.name):
            raise Fault(f"{nic.name} is already a port of {nic.master}", f"remove it from {nic.master}")


def profiles(
    bond: Bond, addressing: Optional[Mapping[str, Any]] = None, version: tuple[int, ...] = (1, 14)
) -> dict[str, Profile]:
    """The profiles by part, of PARTS.

    `addressing` are the settings ipv4 and ipv6 that the bond gets; by default addresses come from DHCP and router
    advertisements. `version` is NetworkManager's.
    """
    settings = addressing or {"ipv4": {"method": "auto"}, "ipv6": {"method": "auto"}}
    options = {
        "mode": "active-backup",
        "miimon": "100",
        "primary": bond.vf.name,
        "fail_over_mac": bond.fail_over_mac,
    }
    made: dict[str, Profile] = {
        "bond": {
            "connection": {
                "id": bond.name,
                "uuid": identity(bond.name, "bond"),
                "type": "bond",
                "interface-name": bond.name,
                "autoconnect": True,
                "autoconnect-slaves": 1,
            },
            "bond": {"options": options},
            **{name: dict(setting) for name, setting in settings.items()},
        }
    }
    for part, nic, priority in (("vf", bond.vf, 100), ("standby", bond.standby, 0)):
        made[part] = _port(bond, part, nic)
        if version >= PORT_PRIORITIES:
            # The primary is configured by name; this prefers a VF that comes back with another name.
            made[part]["bond-port"] = {"prio": priority}
    return made


def _port(bond: Bond, part: str, nic: Nic) -> Profile:
    return {
        "connection": {
            "id": f"{bond.name}-{part}",
            "uuid": identity(bond.name, part),
            "type": "802-3-ethernet",
            "autoconnect": True,
            "autoconnect-priority": _PRIORITY,
            "master": identity(bond.name, "bond"),
            "slave-type": "bond",
        },
        "802-3-ethernet": {"mac-address": bytes.fromhex(nic.mac.replace(":", ""))},
    }


def differs(wanted: Profile, present: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a profile lacks a wanted setting; its other settings are ignored."""
    for name, setting in wanted.items():
        there = present.get(name, {})
        for key, value in setting.items():
            if key not in there and _DEFAULTS.get((name, key)) == value:
                continue
            if _plain(there.get(key)) != _plain(value):
                return True
    return False


def _plain(value: Any) -> Any:
    """A value without its D-Bus types, for comparison."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (bytes, bytearray)):
        return list(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value]


def steps(
    wanted: Mapping[str, Profile], present: Mapping[str, Optional[Mapping[str, Mapping[str, Any]]]]
) -> dict[str, str]:
    """What to do with each profile, 'add' or 'change'; profiles that are right are left out."""
    todo = {}
    for part in PARTS:
        there = present.get(part)
        if there is None:
            todo[part] = "add"
        elif differs(wanted[part], there):
            todo[part] = "change"
    return todo
