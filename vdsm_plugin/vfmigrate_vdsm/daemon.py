# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as the plugin sees it: requests over its socket (docs/protocol.md of vfmigrate)."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

VERSION = 1
# vdsm has no time limit for hooks, so there is one here, in seconds.
PATIENCE = 60.0


class PluginError(Exception):
    """What vdsm, and through it the engine's log, gets to read: one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UnreachableError(PluginError):
    """The daemon does not answer."""


class Daemon:
    """Asks vfmigrated; one connection for each request."""

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience

    def ask(self, request: str, **arguments: object) -> Mapping[str, Any]:
        """The result of a request. Raises PluginError with the daemon's reason, UnreachableError without an answer."""
        known = {key: value for key, value in arguments.items() if value is not None}
        line = json.dumps({"version": VERSION, "request": request, "arguments": known})
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(self._patience)
                connection.connect(self._path)
                connection.sendall(line.encode() + b"\n")
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline() or b"null")
        except PermissionError as error:
            raise UnreachableError(
                f"vfmigrated does not answer ({error}); on this host see which policy denies it: "
                "ausearch -m avc -ts recent"
            ) from None
        except (OSError, ValueError) as error:
            raise UnreachableError(
                f"vfmigrated does not answer ({error}); on this host run: systemctl start vfmigrated.socket"
            ) from None
        if isinstance(answer, dict) and isinstance(answer.get("result"), dict):
            return dict(answer["result"])
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            refusal = answer["error"]
            raise PluginError(
                "; ".join(filter(None, (str(refusal.get("problem", "")), str(refusal.get("remedy", "")))))
            )
        raise UnreachableError("the program that answers at vfmigrated's socket is not vfmigrated")
