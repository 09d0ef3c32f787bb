# SPDX-License-Identifier: GPL-2.0-or-later
"""One change of a guest's VFs, in its definition and in the running guest: made completely, or undone."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.cli import failover_verb
from vfmigrate.domain import attachment, metadata
from vfmigrate.domain.attachment import Attachment
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.errors import HostError, Refused, VfmigrateError
from vfmigrate.polling import poll
from vfmigrate.rpc import protocol
from vfmigrate.text import complain, say, say_json

if TYPE_CHECKING:
    from vfmigrate.virt.connection import LibvirtConnection
    from vfmigrate.virt.hot_plug import HotPlug

SCHEMA = 1

# QEMU closes a VF a moment after libvirt has removed the device.
_CLOSE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_SETTLE_SECONDS = 0.5

#: what the daemon answers
Answer = Mapping[str, Any]


class GuestChange:
    """One change of a guest: what to undo if it fails half-way, and what was done."""

    def __init__(self, options: argparse.Namespace, connection: LibvirtConnection) -> None:
        self.connection = connection
        self.name: str = options.domain
        self.uuid = connection.uuid(self.name)
        self.socket = options.socket
        self.dry_run: bool = options.dry_run
        running, persistent = connection.is_running(self.name), connection.is_persistent(self.name)
        if not connection.is_local():
            raise Refused(
                f"guest '{self.name}' is on {connection.hostname()}, "
                "and this command must run on the host of the guest",
                f"run it on {connection.hostname()}",
            )
        if options.config and not persistent:
            raise Refused(f"guest '{self.name}' is transient: it has no definition", "omit --config")
        self.live = running and not options.config
        self.before = connection.definition(self.name) if persistent else None
        #: the definition after the change; None for a transient guest
        self.after: Optional[str] = None
        self.done: list[str] = []
        self._undo = ExitStack()

    def ask(self, request: str, **arguments: Any) -> Answer:
        """Ask this host's daemon."""
        return protocol.ask(request, arguments, path=self.socket)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was done in the block when it fails."""
        with self._undo:
            yield
            self._undo.pop_all()

    def on_failure(self, what: str, action: Callable[[], object]) -> None:
        """Run `action` if the change fails later; if that fails too, print so and undo the rest."""

        def undo() -> None:
            try:
                action()
            except VfmigrateError as error:
                complain("vfmigrate", f"could not {what}: {error}")

        self._undo.callback(undo)

    def plan(self, wanted: Attachment) -> None:
        """Plan a definition with this VF."""
        self.after = attachment.attached(self.before, wanted) if self.before is not None else None

    def plan_without(self, present: VfInterface) -> None:
        """Plan a definition without this VF."""
        self.after = attachment.detached(self.before, present) if self.before is not None else None

    def define(self) -> None:
        """Apply the planned definition."""
        if self.before is None or self.after is None or self.after == self.before:
            return
        before = self.before
        self.connection.define(self.after)
        self.on_failure("restore the definition", lambda: self.connection.define(before))
        failover_verb.define_noted(self.connection, self.name, before)
        self.done.append("defined" + ("" if self.live else "; takes effect at the guest's next boot"))

    def claim(self, mac: str, status: Optional[Answer] = None) -> Optional[Answer]:
        """The claim for one of the guest's interfaces in the daemon's status; by default the present one."""
        claims = (status or self.ask("status"))["claims"]
        return next((each for each in claims if each["domain"] == self.uuid and each["mac"] == mac), None)

    def give_back(self, mac: str) -> None:
        """End the claim for an interface that the guest no longer has."""

        def given_back() -> Optional[bool]:
            self.ask("give_back", domain=self.uuid, mac=mac)
            return True if self.claim(mac) is None else None

        if not poll(given_back, _CLOSE_SECONDS, _POLL_SECONDS):
            raise HostError(
                f"the VF with MAC {mac} is still in use, although guest '{self.name}' no longer has it",
                "see: vfmigrate status",
            )

    def plug(self, device: str) -> None:
        """Plug a device into the running guest."""
        self._devices().attach(device)

    def unplug(self, mac: str) -> None:
        """Unplug a VF from the running guest, and release it. Raises HostError if the guest keeps it."""
        text = self._devices().text(mac)
        if text is not None:
            self._devices().detach(mac, text, threading.Event())
        self.give_back(mac)

    def _devices(self) -> HotPlug:
        from vfmigrate.virt.hot_plug import HotPlug  # noqa: PLC0415 - libvirt

        return HotPlug(self.connection, self.uuid)

    def marks(self) -> tuple[metadata.Mark, ...]:
        """The marks of the running guest."""
        return metadata.of_domain(self.connection.live(self.name))

    def unmark(self, mac: str) -> None:
        """Remove the mark of an interface from the running guest."""
        for _ in range(2):
            marks = self.marks()
            left = tuple(mark for mark in marks if mark.mac != mac)
            if left != marks:
                self.connection.stamp(self.name, left)
            # The daemon also follows the unplug, and may just be about to write the marks that it read before.
            time.sleep(_SETTLE_SECONDS)

    def show(self, result: Answer, device: str, *, as_json: bool) -> None:
        """Print what was done, or would be done."""
        if as_json:
            say_json({"schema": SCHEMA, **result})
            return
        if self.before is not None and self.after is not None:
            say(failover_verb.difference(self.before, self.after))
        else:
            say(device)
        for line in self.done or ["nothing changed (--dry-run)"]:
            say(line)


@contextmanager
def begun(options: argparse.Namespace) -> Iterator[GuestChange]:
    """Begin a change of the guest that the command line names. Raises Unreachable or Refused."""
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    with LibvirtConnection(options.connect) as connection:
        yield GuestChange(options, connection)
