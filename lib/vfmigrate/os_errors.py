# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of the operating system, as errors for the administrator.

Each door turns an OSError into a HostError here. What the kernel denied is unknown: "there is no such file" may be
concluded from ENOENT only, never from EACCES, which SELinux answers to root too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Union

from vfmigrate.errors import HostError

AnyPath = Union[str, "os.PathLike[str]"]

DENIED_REMEDY = "run as root; if root is refused, SELinux may deny it: ausearch -m avc,user_avc -ts recent"
_REMEDIES = {errno.EACCES: DENIED_REMEDY, errno.EPERM: DENIED_REMEDY}
#: what says that a file or directory is not there
ABSENT = (FileNotFoundError, NotADirectoryError)


def failed(
    what: str, error: OSError, remedies: Mapping[int, str] = MappingProxyType({}), remedy: str = ""
) -> HostError:
    """The error for "cannot `what`".

    The remedy is that for the errno in `remedies`, else that for a right that is missing, else `remedy`.
    """
    number = error.errno or 0
    reason = os.strerror(number) if number else str(error)
    return HostError(f"cannot {what}: {reason}", remedies.get(number) or _REMEDIES.get(number) or remedy)


def exists(path: AnyPath, what: str = "") -> bool:
    """Whether there is such a file, link target or directory. Raises HostError where that cannot be seen."""
    try:
        os.stat(path)  # noqa: PTH116 - paths are text where thousands are looked at
    except ABSENT:
        return False
    except OSError as error:
        raise failed(what or f"see whether there is {path}", error) from None
    return True
