# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC profile of oVirt: its settings, changes of them, and what the engine would refuse. Pure.

The refusals are those of the engine's own validation (VnicProfileValidator), with remedies and before anything is sent.
Checks that need the engine's database (VMs that use the profile) are left to the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

from vfmigrate.errors import Refused
from vfmigrate.model.strategy import STRATEGIES

STRATEGY = "vfmigrate_strategy"
POOL = "vfmigrate_pool"
VLAN = "vfmigrate_vlan"
#: the custom properties that the vdsm plugin reads
PROPERTIES = (STRATEGY, POOL, VLAN)

# These separate custom properties in the engine's syntax.
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
    #: it has a network filter, as profiles have by default
    network_filter: bool = False


@dataclass(frozen=True)
class Change:
    """The settings to change; None leaves one unchanged."""

    pass_through: Optional[bool] = None
    migratable: Optional[bool] = None
    failover: Optional[str] = None
    #: custom properties to set; None removes one
    properties: Mapping[str, Optional[str]] = field(default_factory=dict)
    #: remove the network filter
    no_network_filter: bool = False


def changed(profile: Profile, change: Change) -> Profile:
    """The profile after a change. A profile without passthrough is always migratable, as in the engine."""
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
    """The profile with this id or name, or `NETWORK/NAME`. Raises Refused if there is none, or more than one."""
    profiles = list(profiles)
    found = [p for p in profiles if wanted in (p.id, p.name, f"{p.network}/{p.name}")]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(sorted(f"{p.network}/{p.name}" for p in profiles)) or "none"
        raise Refused(f"the engine has no vNIC profile '{wanted}'", f"its profiles: {known}")
    several = ", ".join(f"{p.network}/{p.name} ({p.id})" for p in found)
    raise Refused(f"several vNIC profiles have the name '{wanted}': {several}", "use NETWORK/NAME or the id")


def check(before: Profile, after: Profile, profiles: Iterable[Profile]) -> None:
    """Raises Refused for what the engine would not accept, or what cannot work."""
    profiles = list(profiles)
    users = sorted(p.name for p in profiles if p.failover == before.id)
    if users:
        raise Refused(
            f"vNIC profile '{before.name}' is the failover of {', '.join(users)}, so it cannot be changed",
            "change a copy of it, and make the copy the failover",
        )
    if after.pass_through:
        _check_pass_through(after)
    if before.failover is not None and not (after.pass_through and after.migratable):
        raise Refused(
            f"vNIC profile '{after.name}' has a failover, which needs passthrough and migratable",
            "remove the failover first, in the Administration Portal: the REST API cannot",
        )
    if after.failover is not None:
        _check_failover(after, profiles)
    _check_properties(after)


def _check_pass_through(profile: Profile) -> None:
    for has, what, remedy in (
        (profile.port_mirroring, "port mirroring", "remove it first"),
        (profile.qos, "a QoS", "remove it first"),
        (profile.network_filter, "a network filter", "add --no-network-filter"),
        (profile.port_isolation, "a network with port isolation", "choose another network"),
    ):
        if has:
            raise Refused(
                f"vNIC profile '{profile.name}' has {what}, which passthrough does not allow", remedy
            )


def _check_failover(profile: Profile, profiles: Iterable[Profile]) -> None:
    if profile.failover == profile.id:
        raise Refused(f"vNIC profile '{profile.name}' cannot be its own failover")
    target = next((p for p in profiles if p.id == profile.failover), None)
    if target is None:
        raise Refused(f"the engine has no vNIC profile with the id {profile.failover}")
    if target.pass_through:
        raise Refused(
            f"vNIC profile '{target.name}' cannot be a failover: it has passthrough itself",
            "choose a profile without passthrough",
        )
    if target.external:
        raise Refused(
            f"vNIC profile '{target.name}' cannot be a failover: its network '{target.network}' is external",
            "choose a profile of an oVirt network",
        )
    if not (profile.pass_through and profile.migratable):
        raise Refused(
            f"vNIC profile '{profile.name}' can have a failover only with passthrough and migratable",
            "add --pass-through yes --migratable yes",
        )


def with_state(name: Optional[str]) -> bool:
    """Whether VFs migrate with their device state by a custom property's value, which may be any text or none."""
    found = STRATEGIES.get(name or "")
    return found is not None and found.state_travels


def _check_properties(profile: Profile) -> None:
    for key, value in profile.properties.items():
        if _NO_VALUE.search(value):
            raise Refused(f"custom property {key} cannot have a ';' or a line break in its value")
    travels = with_state(profile.properties.get(STRATEGY))
    if travels and profile.pass_through:
        raise Refused(
            f"vNIC profile '{profile.name}' has passthrough, so the engine unplugs its VFs before a migration",
            "strategy vfio needs a profile without passthrough: add --pass-through no",
        )
    if travels:
        _check_needs_no_bridge(profile)
    if travels and POOL not in profile.properties:
        raise Refused(f"strategy vfio of vNIC profile '{profile.name}' needs a pool", "add --pool NAME")
    if not travels and (POOL in profile.properties or VLAN in profile.properties):
        raise Refused(
            f"vNIC profile '{profile.name}' has a pool or VLAN, which only strategy vfio uses",
            "add --strategy vfio, or --pool none --vlan none",
        )


def _check_needs_no_bridge(profile: Profile) -> None:
    """Raises Refused for settings that a VF would silently ignore.

    vdsm cannot mirror a VF, and guests on isolated ports would not be isolated.
    """
    for has, what, remedy in (
        (profile.port_mirroring, "port mirroring", "remove it first"),
        (profile.port_isolation, "a network with port isolation", "choose another network"),
    ):
        if has:
            raise Refused(
                f"vNIC profile '{profile.name}' has {what}, which works on a bridge and not on a VF",
                remedy,
            )


def differences(before: Profile, after: Profile) -> Iterator[str]:
    """The changes, in words."""
    for name, old, new in (
        ("pass_through", _yes_no(before.pass_through), _yes_no(after.pass_through)),
        ("migratable", _yes_no(before.migratable), _yes_no(after.migratable)),
        ("failover", before.failover or "none", after.failover or "none"),
        ("network filter", _yes_no(before.network_filter), _yes_no(after.network_filter)),
    ):
        if old != new:
            yield f"{name}: {old} -> {new}"
    for key in sorted({*before.properties, *after.properties}):
        was, will = before.properties.get(key), after.properties.get(key)
        if was != will:
            yield f"{key}: {was or 'none'} -> {will or 'none'}"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
