# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a connection to libvirt, with a login where libvirt asks for one."""

from __future__ import annotations

import errno
import os
from typing import Any, Callable, Optional

import libvirt

from vfmigrate import uninterruptible
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.deadline import Door
from vfmigrate.errors import Unreachable, VfmigrateError
from vfmigrate.os_errors import DENIED_REMEDY
from vfmigrate.virt.errors import LibvirtError, libvirt_call

#: to be connected to libvirt: apart from its other calls, since many attempts may hang
OPENING = Door("libvirt (connection)", "see systemctl status libvirtd virtqemud", Unreachable)
OPEN_SECONDS = 30.0

# The answer is the fifth of a credential's five fields, of which the first is its type (libvirt_virConnectOpenAuth in
# libvirt-override.c of libvirt-python).
_ANSWER = 4
_KINDS = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
_LOGIN_FAILED = (
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_AUTH_CANCELLED,
)


class _Login:
    """Answers libvirt when it asks for name and password; keeps what made it fail, which libvirt does not pass on."""

    def __init__(self, access: Callable[[], LibvirtAccess]) -> None:
        self._access = access
        self.asked = False
        self.error: Optional[VfmigrateError] = None

    def answer(self, credentials: list[list[Any]], _opaque: object) -> int:
        """The callback of libvirt: fill in the answers; -1 when there is none. An exception would end up on stderr."""
        self.asked = True
        try:
            access = self._access()
            if access.user is None:
                return -1
            for each in credentials:
                kind = each[0]
                each[_ANSWER] = access.user if kind == libvirt.VIR_CRED_AUTHNAME else access.password()
        except VfmigrateError as error:
            self.error = error
            return -1
        return 0


def open_connection(
    uri: Optional[str],
    access: Callable[[], LibvirtAccess],
    door: Door = OPENING,
    seconds: float = OPEN_SECONDS,
) -> Any:
    """Connect to `uri`, or where virsh would; `access` returns the login, and is called only when libvirt asks for one.

    A libvirt that accepts the connection and says nothing, as one that is stopped, is given up after `seconds`. Raises
    the door's error then, Unreachable when libvirt refuses (with the door's remedy unless it is for want of a login),
    and what `access` and LibvirtAccess.password raise.
    """
    login = _Login(access)
    try:
        with libvirt_call("connection"):
            credentials = [_KINDS, login.answer, None]
            return uninterruptible.call(
                door, seconds, libvirt.openAuth, uri, credentials, 0, what="opening a connection"
            )
    except LibvirtError as error:
        if login.error is not None:
            raise login.error from None
        where = f" at {uri}" if uri else ""
        raise Unreachable(
            f"cannot connect to libvirt{where}: {error.reason}", _remedy(error, login) or door.remedy
        ) from None


def _remedy(error: LibvirtError, login: _Login) -> str:
    if not login.asked and error.code not in _LOGIN_FAILED:
        # libvirt passes the reason on in its text only
        return DENIED_REMEDY if os.strerror(errno.EACCES) in error.reason else ""
    return (
        "libvirt asks for a login: check user and password_file in the section [libvirt] of vfmigrate.conf, "
        "see vfmigrate.conf(5)"
    )
