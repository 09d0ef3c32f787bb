# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC profile of oVirt: what it says, how it is changed, and what its engine would refuse. Pure.

The refusals are those of the engine's own validation of an updated profile (its VnicProfileValidator), told before
anything is sent, and with what to do. What needs the engine's database (VMs that use the profile) the engine checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

from vfmigrate.errors import Refused

STRATEGY = "vfmigrate_strategy"
POOL = "vfmigrate_pool"
VLAN = "vfmigrate_vlan"
#: the custom properties that the plugin for vdsm reads
PROPERTIES = (STRATEGY, POOL, VLAN)

# The engine's own syntax of custom properties knows no other.
_NO_VALUE = re.compile(r"[;\r\n]")


@dataclass(frozen=True)
class Profile:
    """One vNIC profile."""

    id: str
    name: str
    #: the name of its network
    network: str
    pass_through: bool = False
    migratable: bool = True
    #: id of the profile of the standby
    failover: Optional[str] = None
    properties: Mapping[str, str] = field(default_factory=dict)
    port_mirroring: bool = False
    qos: bool = False
    #: the network belongs to an external provider
    external: bool = False
    #: the network isolates its ports
    port_isolation: bool = False
    #: has a network filter, as profiles have unless somebody takes it away
    network_filter: bool = False


@dataclass(frozen=True)
class Change:
    """What is asked for; None leaves a thing as it is."""

    pass_through: Optional[bool] = None
    migratable: Optional[bool] = None
    failover: Optional[str] = None
    #: custom properties to set; None takes one away
    properties: Mapping[str, Optional[str]] = field(default_factory=dict)
    #: take the network filter away
    no_network_filter: bool = False


def changed(profile: Profile, change: Change) -> Profile:
    """The profile as it would be. A profile without passthrough is always migratable, as the engine has it."""
    properties = {**profile.properties, **change.properties}
    pass_through = profile.pass_through if change.pass_through is None else change.pass_through
    migratable = profile.migratable if change.migratable is None else change.migratable
    return replace(
        profile,
        pass_through=pass_through,
        migratable=migratable or not pass_through,
        failover=profile.failover if change.failover is None else change.failover,
        properties={key: value for key, value in properties.items() if value is not None},
        network_filter=profile.network_filter and not change.no_network_filter,
    )


def find(profiles: Iterable[Profile], wanted: str) -> Profile:
    """The profile with this id or name, or `NETWORK/NAME`. Raises Refused when there is none, or more than one."""
    profiles = list(profiles)
    found = [p for p in profiles if wanted in (p.id, p.name, f"{p.network}/{p.name}")]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(sorted(f"{p.network}/{p.name}" for p in profiles)) or "none"
        raise Refused(f"the engine has no vNIC profile '{wanted}'", f"its profiles: {known}")
    several = ", ".join(f"{p.network}/{p.name} ({p.id})" for p in found)
    raise Refused(
        f"several vNIC profiles are called '{wanted}': {several}", "name it as NETWORK/NAME or by its id"
    )


def check(before: Profile, after: Profile, profiles: Iterable[Profile]) -> None:
    """Raises Refused for what the engine would not accept, or could not work."""
    profiles = list(profiles)
    users = sorted(p.name for p in profiles if p.failover == before.id)
    if users:
        raise Refused(
            f"vNIC profile '{before.name}' is the failover of {', '.join(users)}, and cannot be changed while it is",
            "change a copy of it, and make that the failover",
        )
    if after.pass_through:
        _check_pass_through(after)
    if before.failover is not None and not (after.pass_through and after.migratable):
        raise Refused(
            f"vNIC profile '{after.name}' has a failover, which needs passthrough and migratable",
            "take the failover away first, in the Administration Portal: the REST API cannot",
        )
    if after.failover is not None:
        _check_failover(after, profiles)
    _check_properties(after)


def _check_pass_through(profile: Profile) -> None:
    for has, what, remedy in (
        (profile.port_mirroring, "port mirroring", "take it away first"),
        (profile.qos, "a QoS", "take it away first"),
        (profile.network_filter, "a network filter", "add --no-network-filter"),
        (profile.port_isolation, "a network with port isolation", "choose another network"),
    ):
        if has:
            raise Refused(f"vNIC profile '{profile.name}' has {what}, which passthrough excludes", remedy)


def _check_failover(profile: Profile, profiles: Iterable[Profile]) -> None:
    if profile.failover == profile.id:
        raise Refused(f"vNIC profile '{profile.name}' cannot be its own failover")
    target = next((p for p in profiles if p.id == profile.failover), None)
    if target is None:
        raise Refused(f"the engine has no vNIC profile with the id {profile.failover}")
    if target.pass_through:
        raise Refused(
            f"vNIC profile '{target.name}' cannot be a failover: it is a passthrough profile itself",
            "choose one on a bridge",
        )
    if target.external:
        raise Refused(
            f"vNIC profile '{target.name}' cannot be a failover: its network '{target.network}' is external",
            "choose one of a network of oVirt's own",
        )
    if not (profile.pass_through and profile.migratable):
        raise Refused(
            f"vNIC profile '{profile.name}' can have a failover only with passthrough and migratable",
            "add --pass-through yes --migratable yes",
        )


def _check_properties(profile: Profile) -> None:
    for key, value in profile.properties.items():
        if _NO_VALUE.search(value):
            raise Refused(f"custom property {key} cannot have a ';' or a line break in its value")
    strategy = profile.properties.get(STRATEGY)
    if strategy == "vfio" and profile.pass_through:
        raise Refused(
            f"vNIC profile '{profile.name}' is a passthrough profile, whose VFs the engine unplugs before a migration",
            "state travels from a profile without passthrough: add --pass-through no",
        )
    if strategy == "vfio":
        _check_does_without_bridge(profile)
    if strategy == "vfio" and POOL not in profile.properties:
        raise Refused(f"strategy vfio of vNIC profile '{profile.name}' needs a pool", "add --pool NAME")
    if strategy != "vfio" and (POOL in profile.properties or VLAN in profile.properties):
        raise Refused(
            f"vNIC profile '{profile.name}' has a pool or VLAN without strategy vfio, where they mean nothing",
            "add --strategy vfio, or take them away",
        )


def _check_does_without_bridge(profile: Profile) -> None:
    """Raises Refused for what somebody relies on and a VF would silently not have.

    vdsm fails to mirror a VF, and guests that were to be kept apart would not be.
    """
    for has, what, remedy in (
        (profile.port_mirroring, "port mirroring", "take it away first"),
        (profile.port_isolation, "a network with port isolation", "choose another network"),
    ):
        if has:
            raise Refused(
                f"vNIC profile '{profile.name}' has {what}, which a bridge does for a vNIC and nothing for a VF",
                remedy,
            )


def differences(before: Profile, after: Profile) -> Iterator[str]:
    """What changes, in words."""
    for name, old, new in (
        ("pass_through", _told(before.pass_through), _told(after.pass_through)),
        ("migratable", _told(before.migratable), _told(after.migratable)),
        ("failover", before.failover or "none", after.failover or "none"),
        ("network filter", _told(before.network_filter), _told(after.network_filter)),
    ):
        if old != new:
            yield f"{name}: {old} -> {new}"
    for key in sorted({*before.properties, *after.properties}):
        was, will = before.properties.get(key), after.properties.get(key)
        if was != will:
            yield f"{key}: {was or 'none'} -> {will or 'none'}"


def _told(value: bool) -> str:
    return "yes" if value else "no"
