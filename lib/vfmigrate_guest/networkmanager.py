# SPDX-License-Identifier: GPL-2.0-or-later
"""NetworkManager's connection profiles and devices, over its D-Bus API.

https://networkmanager.dev/docs/api/latest/spec.html; only calls that NetworkManager has had since EL8 (1.14).
dbus-python is imported in this module only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Callable, Optional

import dbus

from vfmigrate_guest.bond import Profile
from vfmigrate_guest.fault import Fault

_NAME = "org.freedesktop.NetworkManager"
_PATH = "/org/freedesktop/NetworkManager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_NO_PATH = "/"
#: NMDeviceState: the device is connected
_ACTIVATED = 100
#: NMDeviceState: the attempt failed
_FAILED = 120
_LOOK_SECONDS = 0.05


def _addresses(value: Any) -> Any:
    return dbus.Array(
        [
            dbus.Dictionary(
                {"address": str(each["address"]), "prefix": dbus.UInt32(each["prefix"])}, signature="sv"
            )
            for each in value
        ],
        signature="a{sv}",
    )


# The D-Bus types of those settings for which Python's types are ambiguous.
_TYPES: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("connection", "autoconnect-slaves"): dbus.Int32,
    ("connection", "autoconnect-priority"): dbus.Int32,
    ("bond", "options"): lambda value: dbus.Dictionary(value, signature="ss"),
    ("bond-port", "prio"): dbus.Int32,
    ("802-3-ethernet", "mac-address"): dbus.ByteArray,
    ("ipv4", "address-data"): _addresses,
    ("ipv6", "address-data"): _addresses,
}


def encode(profile: Profile) -> Any:
    """A profile in the types of D-Bus: a{sa{sv}}."""
    return dbus.Dictionary(
        {
            name: dbus.Dictionary(
                {key: _TYPES.get((name, key), lambda same: same)(value) for key, value in setting.items()},
                signature="sv",
            )
            for name, setting in profile.items()
        },
        signature="sa{sv}",
    )


@contextmanager
def _faults(what: str) -> Iterator[None]:
    try:
        yield
    except dbus.DBusException as error:
        name = error.get_dbus_name() or ""
        if name.endswith(("ServiceUnknown", "NoReply", "Disconnected", "Spawn.ChildExited")):
            raise Fault("NetworkManager does not answer", "run: systemctl start NetworkManager") from None
        if name.endswith(("PermissionDenied", "AccessDenied", "AuthFailed")):
            raise Fault(f"NetworkManager denied access: {what}", "run the command as root") from None
        raise Fault(f"NetworkManager: {what}: {error.get_dbus_message()}") from None


class NetworkManager:
    """A connection to NetworkManager."""

    def __init__(self) -> None:
        """Raises Fault when there is no system bus."""
        try:
            self._bus = dbus.SystemBus()
        except dbus.DBusException as error:
            raise Fault(
                f"there is no system bus: {error.get_dbus_message()}", "run: systemctl start dbus"
            ) from None

    def _interface(self, path: str, name: str = "") -> Any:
        with _faults("connection"):
            return dbus.Interface(self._bus.get_object(_NAME, path, introspect=False), _NAME + name)

    def _property(self, path: str, interface: str, name: str) -> Any:
        proxy = self._bus.get_object(_NAME, path, introspect=False)
        return proxy.Get(_NAME + interface, name, dbus_interface=_PROPERTIES)

    def version(self) -> tuple[int, ...]:
        """NetworkManager's version, such as (1, 40, 16)."""
        with _faults("version"):
            text = str(self._property(_PATH, "", "Version"))
        return tuple(int(part) for part in text.split("-", maxsplit=1)[0].split(".") if part.isdigit())

    # -- profiles

    def _find(self, uuid: str) -> Optional[str]:
        with _faults("looking for a profile"):
            for path in self._interface(f"{_PATH}/Settings", ".Settings").ListConnections():
                settings = self._interface(path, ".Settings.Connection").GetSettings()
                if str(settings["connection"]["uuid"]) == uuid:
                    return str(path)
        return None

    def profile(self, uuid: str) -> Optional[Mapping[str, Mapping[str, Any]]]:
        """The profile with this UUID; None if there is none."""
        path = self._find(uuid)
        if path is None:
            return None
        with _faults("reading a profile"):
            settings: Mapping[str, Mapping[str, Any]] = self._interface(
                path, ".Settings.Connection"
            ).GetSettings()
        return settings

    def profile_of(self, device: str) -> Optional[Mapping[str, Mapping[str, Any]]]:
        """The active profile of a network device; None if there is none."""
        path = self._device(device)
        if path is None:
            return None
        with _faults(f"what is active on {device}"):
            active = self._property(path, ".Device", "ActiveConnection")
            if active == _NO_PATH:
                return None
            path = self._property(active, ".Connection.Active", "Connection")
            settings: Mapping[str, Mapping[str, Any]] = self._interface(
                path, ".Settings.Connection"
            ).GetSettings()
        return settings

    def add(self, profile: Profile) -> None:
        """Add a profile permanently."""
        with _faults(f"adding {profile['connection']['id']}"):
            self._interface(f"{_PATH}/Settings", ".Settings").AddConnection(encode(profile))

    def change(self, profile: Profile) -> None:
        """Replace the profile with the same UUID."""
        path = self._find(profile["connection"]["uuid"])
        with _faults(f"changing {profile['connection']['id']}"):
            self._interface(path or _NO_PATH, ".Settings.Connection").Update(encode(profile))

    def delete(self, uuid: str) -> bool:
        """Delete a profile, which also deactivates it; False if there is none."""
        path = self._find(uuid)
        if path is None:
            return False
        with _faults("deleting a profile"):
            self._interface(path, ".Settings.Connection").Delete()
        return True

    # -- devices

    def _device(self, name: str) -> Optional[str]:
        try:
            return str(self._interface(_PATH).GetDeviceByIpIface(name))
        except dbus.DBusException:
            return None

    def activate(self, uuid: str, device: Optional[str] = None) -> None:
        """Activate a profile; `device` is None for one that creates its own device."""
        where = self._device(device) if device is not None else _NO_PATH
        if where is None:
            raise Fault(f"NetworkManager does not know device {device}", "see: nmcli device")
        path = self._find(uuid)
        with _faults(f"activating a profile{f' on {device}' if device else ''}"):
            self._interface(_PATH).ActivateConnection(
                dbus.ObjectPath(path or _NO_PATH), dbus.ObjectPath(where), dbus.ObjectPath(_NO_PATH)
            )

    def wait_connected(self, device: str, seconds: float) -> None:
        """Wait until a device is connected. Raises Fault if it fails, or is not connected within `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            path = self._device(device)
            with _faults(f"state of {device}"):
                state = self._property(path, ".Device", "State") if path is not None else 0
            if state == _ACTIVATED:
                return
            if state == _FAILED:
                break
            time.sleep(_LOOK_SECONDS)
        raise Fault(f"{device} did not connect within {seconds:g} s", "see: journalctl -u NetworkManager")
