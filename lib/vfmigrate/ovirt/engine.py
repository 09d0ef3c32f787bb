# SPDX-License-Identifier: GPL-2.0-or-later
"""The vNIC profiles of oVirt's engine, through ovirt-engine-sdk-python.

The SDK is an optional extra (`vfmigrate[ovirt]`, package python3-ovirt-engine-sdk4), needed by one verb of the command
and imported in this module only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Optional

import ovirtsdk4
from ovirtsdk4 import types

from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovirt.vnic_profile import Profile

_TIMEOUT_SECONDS = 60


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Convert the SDK's exceptions."""
    try:
        yield
    except ovirtsdk4.Error as error:
        fault, code = getattr(error, "fault", None), getattr(error, "code", None)
        if code is None or isinstance(
            error, ovirtsdk4.AuthError
        ):  # no answer from the API, or no access to it
            raise Unreachable(
                f"oVirt's engine: {what}: {error}", "check --url, --user and --ca-file"
            ) from None
        detail = fault.detail if fault is not None and fault.detail else str(error)
        raise HostError(f"oVirt's engine refused: {what}: {detail}") from None


class Engine:
    """A connection to the engine; closed at the end of its context."""

    def __init__(
        self,
        url: str,
        *,
        user: Optional[str] = None,
        password: Optional[str] = None,
        ca_file: Optional[str] = None,
        token: Optional[str] = None,
    ) -> None:
        """Prepare to connect to `url` (https://…/ovirt-engine/api); `ca_file` defaults to the system's store."""
        with _errors("connection"):
            self._connection = ovirtsdk4.Connection(
                url=url,
                username=user,
                password=password,
                ca_file=ca_file,
                token=token,
                timeout=_TIMEOUT_SECONDS,
            )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ovirtsdk4.Error):
            # a token from outside is not ours to log out
            self._connection.close(logout=False)

    def profiles(self) -> list[Profile]:
        """All vNIC profiles, with the settings of their networks. Raises Unreachable or HostError."""
        system = self._connection.system_service()
        with _errors("list of networks"):
            networks = {network.id: network for network in system.networks_service().list()}
        with _errors("list of vNIC profiles"):
            found = system.vnic_profiles_service().list()
        return [
            read(profile, networks.get(profile.network.id) if profile.network else None) for profile in found
        ]

    def update(self, before: Profile, after: Profile) -> None:
        """Send the differences. Raises Unreachable, or HostError with the engine's reason."""
        service = self._connection.system_service().vnic_profiles_service().profile_service(before.id)
        with _errors(f"change of vNIC profile '{before.name}'"):
            service.update(write(before, after))


def read(profile: Any, network: Any) -> Profile:
    """A `Profile` from the SDK's profile and its network (None: unknown)."""
    mode = profile.pass_through.mode if profile.pass_through is not None else None
    pass_through = mode == types.VnicPassThroughMode.ENABLED
    return Profile(
        id=profile.id,
        name=profile.name,
        network=(network.name if network is not None else None) or "?",
        pass_through=pass_through,
        migratable=not pass_through or bool(profile.migratable),
        failover=profile.failover.id if profile.failover is not None else None,
        properties={one.name: one.value for one in profile.custom_properties or ()},
        port_mirroring=bool(profile.port_mirroring),
        qos=profile.qos is not None,
        external=network is not None and network.external_provider is not None,
        port_isolation=network is not None and bool(network.port_isolation),
        network_filter=profile.network_filter is not None,
    )


def write(before: Profile, after: Profile) -> Any:
    """The SDK's profile with the differences only.

    Properties are sent as a whole, as the engine replaces them all; migratable has no effect without passthrough.
    """
    sent = types.VnicProfile()
    if after.pass_through != before.pass_through:
        modes = types.VnicPassThroughMode
        sent.pass_through = types.VnicPassThrough(
            mode=modes.ENABLED if after.pass_through else modes.DISABLED
        )
    if after.pass_through and (after.migratable, True) != (before.migratable, before.pass_through):
        sent.migratable = after.migratable
    if after.failover != before.failover:
        sent.failover = types.VnicProfile(id=after.failover)
    if after.network_filter != before.network_filter:
        sent.network_filter = types.NetworkFilter()  # a filter without id removes it
    if dict(after.properties) != dict(before.properties):
        sent.custom_properties = [
            types.CustomProperty(name=key, value=value) for key, value in sorted(after.properties.items())
        ]
    return sent
