# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated on another host, asked through the libvirt connection to that host and through nothing else.

    with Session("qemu+ssh://host-b/system") as session:
        facts = Remote(session.mailbox(), "host-b").ask("facts", {})

`ask` takes and gives what `protocol.ask` does on this host's socket, and raises the same errors; which requests are
answered says `protocol.REMOTE`. There must be a running network of a pool on the other host, as `vfmigrate provision`
makes it. What was asked may be done more than once (the daemon or the network were restarted in between), so only
requests that bear that belong in `REMOTE`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.errors import HostError, Unreachable, VfmigrateError
from vfmigrate.rpc import network_metadata, protocol

if TYPE_CHECKING:
    from vfmigrate.virt.mailbox import Mailbox  # imports libvirt-python, which pure tests do without

# The first looks come fast, since most answers do; over ssh each look is a round trip of its own.
_SHORTEST_WAIT = 0.02
_LONGEST_WAIT = 0.25
# A letter that was taken away unanswered is noticed by looking for it, which costs a call each time.
_LOOKS_PER_CHECK = 4


class Remote:
    """vfmigrated on the host that a mailbox belongs to; `name` is what messages call that host."""

    def __init__(self, mailbox: Mailbox, name: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._mailbox = mailbox
        self._name = name
        self._sleep = sleep

    def ask(self, name: str, arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        """Send one request and wait at most `timeout` seconds for its result.

        Raises what the daemon answered, Unreachable when it does not, HostError when libvirt refuses.
        """
        line = network_metadata.wrap(protocol.encode_request(name, arguments), network_metadata.MAX_ASK_BYTES)
        end = time.monotonic() + timeout
        while True:
            names = self._mailbox.networks()
            if not names:
                raise Unreachable(
                    f"libvirt on {self._name} runs no network of a vfmigrate pool, through which vfmigrated there "
                    "is asked",
                    f"run on {self._name}: vfmigrate provision",
                )
            answer = self._correspond(names[0], line, end)
            if answer is not None:
                return protocol.result_of(answer, self._name)
            if time.monotonic() >= end:
                raise Unreachable(
                    f"vfmigrated on {self._name} does not answer through libvirt (network '{names[0]}')",
                    f"run on {self._name}: systemctl start vfmigrated",
                )

    def _correspond(self, network: str, element: str, end: float) -> Optional[dict[str, Any]]:
        """One question and its answer; None when the question was swept away, or it is too late."""
        name = str(uuid.uuid4())
        ask, answer = network_metadata.ASK + name, network_metadata.ANSWER + name
        self._mailbox.write(network, ask, element)
        try:
            return self._wait(network, ask, answer, end)
        except HostError:
            self._sleep(_LONGEST_WAIT)
            if network in self._mailbox.networks():
                raise
            return None  # the network was stopped, as when it is restarted with other VFs
        finally:
            for uri in (ask, answer):
                with contextlib.suppress(VfmigrateError):
                    self._mailbox.erase(network, uri)

    def _wait(self, network: str, ask: str, answer: str, end: float) -> Optional[dict[str, Any]]:
        pause, looks = _SHORTEST_WAIT, 0
        while time.monotonic() < end:
            self._sleep(pause)
            pause, looks = min(2 * pause, _LONGEST_WAIT), looks + 1
            # Asked in this order: a letter that is gone by now, with an answer that was not there before.
            gone = looks % _LOOKS_PER_CHECK == 0 and self._mailbox.read(network, ask) is None
            element = self._mailbox.read(network, answer)
            if element is not None:
                return protocol.decode_answer(
                    network_metadata.unwrap(element, network_metadata.MAX_ANSWER_BYTES)
                )
            if gone:
                return None
        return None
