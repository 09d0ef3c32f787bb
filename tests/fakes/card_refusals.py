# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusals of the fake card, as the errors that the library raises for those of the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vfmigrate import locks
from vfmigrate.errors import HostError
from vfmigrate.host.devlink import NoDevlinkError


@contextmanager
def asked_to(what: str) -> Iterator[None]:
    """Raise what the library raises where the fake card refuses, as the kernel does."""
    locks.may_take_long("asks the kernel for a change")
    try:
        yield
    except OSError as error:
        text = error.strerror or os.strerror(error.errno or 0)
        kind = NoDevlinkError if error.errno == errno.ENODEV else HostError
        raise kind(f"{what}: {text}") from None
