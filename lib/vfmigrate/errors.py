# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of errors.

Every failure that reaches an administrator is a `VfmigrateError`: one line that says what is wrong with the names
involved, and a remedy if there is one. The kind decides the exit status of the command and is part of the daemon's
answers, so that a client can distinguish a refusal from a broken host without parsing prose. The first line of each
docstring is in vfmigrate(8).
"""

from __future__ import annotations

from typing import ClassVar

from vfmigrate.text import printable


class VfmigrateError(Exception):
    """An error in one line: `problem`, and in `remedy` what the administrator can do."""

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = printable(" ".join(problem.split()))
        self.remedy = printable(" ".join(remedy.split()))

    def with_more(self, text: str) -> VfmigrateError:
        """An error of the same kind that also says `text`; the error itself where that is empty."""
        return KINDS[self.kind](f"{self.problem}; {text}", self.remedy) if text else self

    def with_remedy(self, remedy: str) -> VfmigrateError:
        """An error of the same kind with another remedy."""
        return KINDS[self.kind](self.problem, remedy)

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem

    def about(self, what: str) -> VfmigrateError:
        """An error of the same kind that says what it is about; the error itself where `what` is empty."""
        return KINDS[self.kind](f"{what}: {self.problem}", self.remedy) if what else self


class UsageError(VfmigrateError):
    """The command line or the request is not valid."""

    kind = "usage"
    exit_code = 2


class ConfigError(VfmigrateError):
    """The configuration is not valid; the message names file, section and key."""

    kind = "config"
    exit_code = 78


class InputError(VfmigrateError):
    """Input from outside (domain XML, metadata, a message) is not valid."""

    kind = "input"
    exit_code = 65


class Refused(VfmigrateError):
    """Refused, for a reason that is not a fault: no free VF, incompatible hosts, a failed check."""

    kind = "refused"
    exit_code = 1


class Denied(VfmigrateError):
    """The user may not send this request."""

    kind = "denied"
    exit_code = 77


class HostError(VfmigrateError):
    """An operation on the host failed: kernel, devlink, Open vSwitch or libvirt refused it."""

    kind = "host"
    exit_code = 69


class Unreachable(VfmigrateError):
    """A required service does not answer: vfmigrated, ovsdb-server, libvirt."""

    kind = "unreachable"
    exit_code = 75


class Cancelled(VfmigrateError):
    """The user cancelled it; changes were undone."""

    kind = "cancelled"
    exit_code = 130


KINDS = {
    error.kind: error
    for error in (
        VfmigrateError,
        UsageError,
        ConfigError,
        InputError,
        Refused,
        Denied,
        HostError,
        Unreachable,
        Cancelled,
    )
}
