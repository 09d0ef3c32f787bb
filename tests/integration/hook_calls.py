# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of libvirt's hooks on a namespace host, and orders to refuse, crash or wait.

Two recorders (hook_recorder.py) are in the host's hook directory, one before and one after vfmigrate's hook.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.hosts import Host, wait_for

RECORDER = Path(__file__).with_name("hook_recorder.py")
DIRECTORY = "/etc/libvirt/hooks/qemu.d"
BEFORE = "00-before"
AFTER = "99-after"
PLACE = "/run/hooks"


@dataclass(frozen=True)
class HookCall:
    """One call of a recorder."""

    time: float
    script: str
    name: str
    operation: str
    suboperation: str
    extra: str
    xml: str

    def __str__(self) -> str:
        return f"{self.operation} {self.suboperation} {self.extra}"


class HookCalls:
    """The recorders of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        for script in (BEFORE, AFTER):
            host.write(f"{DIRECTORY}/{script}", RECORDER.read_text(), 0o755)
        self.clear()

    def clear(self) -> None:
        """Forget all calls and all orders."""
        place = self._host.path(PLACE)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()

    def clear_calls(self) -> None:
        """Forget all calls, but keep the orders."""
        (self._host.path(PLACE) / "calls").unlink(missing_ok=True)

    def calls(self, script: str = BEFORE) -> list[HookCall]:
        """The calls of one recorder, in order. The recorder before vfmigrate's hook sees every call of libvirt."""
        file = self._host.path(PLACE) / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = (HookCall(**json.loads(line)) for line in lines)
        return [call for call in calls if call.script == script]

    def operations(self, script: str = BEFORE) -> list[str]:
        """The calls as "operation suboperation extra"."""
        return [str(call) for call in self.calls(script)]

    def refuse(self, operation: str, message: str, script: str = BEFORE) -> None:
        """Make a recorder refuse an operation from now on, with a message on standard error."""
        (self._host.path(PLACE) / f"refuse-{script}-{operation}").write_text(message)

    def crash(self, operation: str, script: str = BEFORE) -> None:
        """Make a recorder end by SIGKILL in an operation from now on."""
        (self._host.path(PLACE) / f"crash-{script}-{operation}").touch()

    @contextmanager
    def hold(self, guest: str, operation: str, script: str = BEFORE) -> Iterator[None]:
        """Make a recorder wait in an operation of a guest until this context is left."""
        order = self._host.path(PLACE) / f"hold-{script}-{operation}"
        order.write_text(guest)
        try:
            yield
        finally:
            order.unlink()

    def wait_for(self, operation: str, script: str = BEFORE) -> HookCall:
        """Wait until an operation was called; returns its latest call."""

        def called() -> list[HookCall]:
            return [call for call in self.calls(script) if call.operation == operation]

        wait_for(f"{operation} on {self._host.name}", lambda: bool(called()))
        return called()[-1]
