# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's manager, through its D-Bus API (org.freedesktop.systemd1(5)).

dbus-python is imported here only.
"""

from __future__ import annotations

from typing import Any

import dbus
import dbus.bus

from vfmigrate import deadline, locks
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.os_errors import DENIED_REMEDY
from vfmigrate.polling import until
from vfmigrate.text import quoted

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_UNIT = f"{_NAME}.Unit"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_POLL_SECONDS = 0.1
_DOOR = Door("systemd", "see systemctl list-jobs", Unreachable)


class Systemd:
    """systemd of this host. `timeout` in seconds bounds each job; a connection is made for each and closed again."""

    def __init__(self, *, timeout: float = 120.0) -> None:
        self._timeout = timeout

    def restart(self, unit: str) -> None:
        """Restart a unit and wait until it is active.

        Raises Unreachable when systemd does not answer, HostError when the unit is not active afterwards.
        """
        state = self._job("RestartUnit", unit)
        if state != "active":
            raise HostError(f"{unit} is {state} after a restart", f"see journalctl -u {quoted(unit)}")

    def load_module(self, driver: str) -> None:
        """Load the kernel module of a driver, for which this process has no right and systemd has (modprobe@.service).

        The unit succeeds also when there is no such module: check that the driver exists. Raises as `restart`.
        """
        # systemd-escape(1): a '-' in an instance's name would be read as a '/'.
        self._job("StartUnit", f"modprobe@{driver.replace('-', '_')}.service")

    def _job(self, method: str, unit: str) -> str:
        """Run a job; returns the state of the unit afterwards."""
        locks.may_take_long("calls systemd")
        try:
            bus = dbus.bus.BusConnection(dbus.bus.BusConnection.TYPE_SYSTEM)
        except dbus.exceptions.DBusException as error:
            raise Unreachable(
                f"systemd does not answer, so {unit} cannot be started: {_message(error)}",
                "see systemctl status dbus.socket, and ausearch -m avc,user_avc -ts recent",
            ) from None
        try:
            with deadline.waiting(_DOOR, self._timeout) as seconds:
                return self._run(bus, method, unit, seconds)
        except dbus.exceptions.DBusException as error:
            raise HostError(
                f"systemd does not start {unit}: {_message(error)}",
                DENIED_REMEDY if _is_denied(error) else f"see systemctl status {quoted(unit)}",
            ) from None
        finally:
            bus.close()

    def _run(self, bus: Any, method: str, unit: str, seconds: float) -> str:
        manager = dbus.Interface(bus.get_object(_NAME, _PATH), f"{_NAME}.Manager")
        job = str(manager.get_dbus_method(method)(unit, "replace", timeout=seconds))
        path = manager.LoadUnit(unit, timeout=seconds)
        properties = dbus.Interface(bus.get_object(_NAME, path), _PROPERTIES)

        def get(name: str) -> Any:
            return properties.Get(_UNIT, name, timeout=seconds)

        if not until(lambda: str(get("Job")[1]) != job, seconds, _POLL_SECONDS):
            raise HostError(
                f"{unit} did not start within {seconds:.3g} s", f"see systemctl status {quoted(unit)}"
            )
        return str(get("ActiveState"))


def _is_denied(error: Any) -> bool:
    """Whether the bus or systemd refused it for want of a right: SELinux answers the same."""
    return str(error.get_dbus_name()).endswith(".AccessDenied")


def _message(error: Any) -> str:
    return " ".join(str(error.get_dbus_message() or error).split())
