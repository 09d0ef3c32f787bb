# SPDX-License-Identifier: GPL-2.0-or-later
"""One change of a guest's VFs, in its definition and while it runs: made whole, or taken back."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.cli import failover_verb
from vfmigrate.domain import attachment, metadata
from vfmigrate.domain.attachment import Attachment
from vfmigrate.errors import HostError, Refused, VfmigrateError
from vfmigrate.rpc import protocol

if TYPE_CHECKING:
    from vfmigrate.virt.devices import Devices
    from vfmigrate.virt.session import Session

SCHEMA = 1

# QEMU closes a VF a moment after libvirt has forgotten it.
_CLOSE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_SETTLE_SECONDS = 0.5

Told = Mapping[str, Any]


class GuestChange:
    """One change of a guest: what is undone when it fails half-way, and what was done, for the user to read."""

    def __init__(self, options: argparse.Namespace, session: Session) -> None:
        self.session = session
        self.name: str = options.domain
        self.uuid = session.uuid(self.name)
        self.socket = options.socket
        self.dry_run: bool = options.dry_run
        running, persistent = session.is_running(self.name), session.is_persistent(self.name)
        if not session.is_local():
            raise Refused(
                "this libvirt is another host's, and only this host's daemon can be asked",
                "run vfmigrate there",
            )
        if options.config and not persistent:
            raise Refused(f"guest '{self.name}' is transient: it has no definition", "leave --config away")
        self.live = running and not options.config
        self.before = session.definition(self.name) if persistent else None
        #: the definition to be; None for a guest that has none
        self.after: Optional[str] = None
        self.done: list[str] = []
        self._undo = ExitStack()

    def ask(self, request: str, **arguments: Any) -> Told:
        """Ask this host's daemon."""
        return protocol.ask(request, arguments, path=self.socket)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was done in the block when it fails."""
        with self._undo:
            yield
            self._undo.pop_all()

    def undoing(self, what: str, action: Callable[[], object]) -> None:
        """Have something done if it comes to undoing; a failure of that is told, and the rest goes on."""

        def undo() -> None:
            try:
                action()
            except VfmigrateError as error:
                print(f"vfmigrate: could not {what}: {error}", file=sys.stderr)

        self._undo.callback(undo)

    def will_have(self, wish: Attachment) -> None:
        """Plan a definition with this VF."""
        self.after = attachment.attached(self.before, wish) if self.before is not None else None

    def define(self) -> None:
        """Make the definition what it is to be."""
        if self.before is None or self.after is None or self.after == self.before:
            return
        before = self.before
        self.session.define(self.after)
        self.undoing("put the definition back", lambda: self.session.define(before))
        self.done.append("defined" + ("" if self.live else "; takes effect at the guest's next boot"))

    def claim(self, mac: str, told: Optional[Told] = None) -> Optional[Told]:
        """The claim for one of the guest's interfaces, in what the daemon tells (None: now)."""
        claims = (told or self.ask("status"))["claims"]
        return next((each for each in claims if each["domain"] == self.uuid and each["mac"] == mac), None)

    def give_back(self, mac: str) -> None:
        """End the claim for an interface that the guest has no more."""
        end = time.monotonic() + _CLOSE_SECONDS
        while True:
            self.ask("give_back", domain=self.uuid, mac=mac)
            claim = self.claim(mac)
            if claim is None:
                return
            if time.monotonic() > end:
                raise HostError(
                    f"VF {claim['vf']} is still held, though guest '{self.name}' has it no more",
                    "see vfmigrate status",
                )
            time.sleep(_LOOK_SECONDS)

    def plug(self, device: str) -> None:
        """Plug a device into the running guest."""
        self._devices().attach(device)

    def unplug(self, mac: str) -> None:
        """Take a VF out of the running guest, and give it back. Raises HostError when the guest keeps it."""
        text = self._devices().text(mac)
        if text is not None:
            self._devices().detach(mac, text, threading.Event())
        self.give_back(mac)

    def _devices(self) -> Devices:
        from vfmigrate.virt.devices import Devices  # noqa: PLC0415 - with libvirt-python

        return Devices(self.session, self.uuid)

    def marks(self) -> tuple[metadata.Mark, ...]:
        """The marks of the running guest."""
        return metadata.of_domain(self.session.live(self.name))

    def unmark(self, mac: str) -> None:
        """Take the mark of an interface from the running guest."""
        for _ in range(2):
            marks = self.marks()
            left = tuple(mark for mark in marks if mark.mac != mac)
            if left != marks:
                self.session.stamp(self.name, left)
            # The daemon, which follows what is unplugged, may be at the point of writing what it read before.
            time.sleep(_SETTLE_SECONDS)

    def show(self, told: Told, device: str, *, as_json: bool) -> None:
        """Say what was done, or would be."""
        if as_json:
            print(json.dumps({"schema": SCHEMA, **told}, indent=2))
            return
        if self.before is not None and self.after is not None:
            print(failover_verb.difference(self.before, self.after))
        else:
            print(device)
        for line in self.done or ["nothing changed (--dry-run)"]:
            print(line)


@contextmanager
def begun(options: argparse.Namespace) -> Iterator[GuestChange]:
    """A change of the guest that is named on the command line. Raises Unreachable or Refused."""
    from vfmigrate.virt.session import Session  # noqa: PLC0415 - a command line is parsed without libvirt-python as well

    with Session(options.connect) as session:
        yield GuestChange(options, session)
