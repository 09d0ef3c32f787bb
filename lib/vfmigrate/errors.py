# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, by kind.

Every failure that reaches an administrator is a `VfmigrateError`: one line that says what is wrong with the names
involved, and, where there is one, what to do about it. The kind decides the exit code of the CLI and travels in
the daemon's answers, so that a client can tell a refusal from a broken host without reading prose.
"""

from __future__ import annotations

from typing import ClassVar


class VfmigrateError(Exception):
    """A failure told in one line: `problem`, and in `remedy` what the administrator can do."""

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(VfmigrateError):
    """The command line or a request is not one we know."""

    kind = "usage"
    exit_code = 2


class ConfigError(VfmigrateError):
    """The configuration says something impossible; names file, section and key."""

    kind = "config"
    exit_code = 78


class InputError(VfmigrateError):
    """Input from outside (domain XML, metadata, a socket message) cannot be understood."""

    kind = "input"
    exit_code = 65


class Refused(VfmigrateError):
    """What was asked for must not happen, for a reason that is not a fault: no free VF, incompatible host."""

    kind = "refused"
    exit_code = 1


class Denied(VfmigrateError):
    """The client has no right to ask for this."""

    kind = "denied"
    exit_code = 77


class HostError(VfmigrateError):
    """The host did not do what was asked of it: kernel, devlink, Open vSwitch or libvirt refused or failed."""

    kind = "host"
    exit_code = 69


class Unreachable(VfmigrateError):
    """A service that is needed does not answer: the daemon, ovsdb-server, libvirt."""

    kind = "unreachable"
    exit_code = 75


class Cancelled(VfmigrateError):
    """The user ended it before it was done; what had been changed was put back."""

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
