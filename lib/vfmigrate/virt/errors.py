# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's errors, turned into ours: every call of libvirt-python is made in one of the contexts of this module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import libvirt

from vfmigrate import locks
from vfmigrate.deadline import Door, OutOfTimeError
from vfmigrate.errors import HostError, Unreachable


class LibvirtError(HostError):
    """libvirt refused or failed: `reason` is libvirt's message, `code` one of VIR_ERR_*, `domain` of VIR_FROM_*."""

    def __init__(self, what: str, error: Any) -> None:
        """`what` says what was asked of libvirt, and `error` is the exception of libvirt-python."""
        self.reason = str(error.get_error_message() or error)
        self.code = error.get_error_code()
        self.domain = error.get_error_domain()
        super().__init__(f"libvirt: {what}: {self.reason}")


@contextlib.contextmanager
def libvirt_call(what: str) -> Iterator[None]:
    """Raise LibvirtError where libvirt-python raises its own; `what` says what is asked of libvirt."""
    locks.may_take_long("calls libvirt")
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(what, error) from None


# Errors of the connection itself, not of the driver behind it: it was closed, or keep-alive gave it up.
_LOST = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR)


@contextlib.contextmanager
def loss_named(door: Door) -> Iterator[None]:
    """Raise the door's error where a call fails because its connection is lost: libvirt's names no host."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_domain() == libvirt.VIR_FROM_RPC and error.get_error_code() in _LOST:
            raise door.error(
                f"the connection to {door.name} was lost: {error.get_error_message()}", door.remedy
            ) from None
        raise


def failure_ignored() -> contextlib.suppress:
    """For calls after whose failure nothing is to be done, such as for a guest that has ended in the meantime."""
    locks.may_take_long("calls libvirt")
    return contextlib.suppress(libvirt.libvirtError, Unreachable, OutOfTimeError)


@contextlib.contextmanager
def absence_ignored(what: str) -> Iterator[None]:
    """As libvirt_call, and goes on where libvirt has no such domain; any other failure does not mean that.

    Raises LibvirtError.
    """
    try:
        with libvirt_call(what):
            yield
    except LibvirtError as error:
        if error.code != libvirt.VIR_ERR_NO_DOMAIN:
            raise
