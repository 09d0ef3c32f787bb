# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to vfmigrated on another host, sent through the libvirt connection to that host.

    with LibvirtConnection("qemu+ssh://host-b/system") as connection:
        facts = RemoteClient(connection.network_metadata(), "host-b").ask("facts", {})

`ask` has the arguments, result and errors of `protocol.ask`, which uses the socket of this host. The other host answers
the requests in `protocol.REMOTE`. It must run the libvirt network of a pool, which `vfmigrate provision` defines. A
request can be executed twice, when the daemon or the network is restarted meanwhile, so `REMOTE` has only requests for
which that is harmless.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.errors import Denied, HostError, Unreachable, VfmigrateError
from vfmigrate.polling import poll
from vfmigrate.rpc import network_message, protocol

if TYPE_CHECKING:
    from vfmigrate.virt.network_metadata import (
        NetworkMetadata,  # imports libvirt-python, which pure tests do without
    )

# Most answers come fast; over ssh each look for one is a round trip.
_SHORTEST_WAIT = 0.02
_LONGEST_WAIT = 0.25
# How often to see whether the request is still there, which costs a call of libvirt each time.
_LOOKS_PER_CHECK = 4

# Requests that each pool answers for itself, and the lists in their results.
_JOINED = {"facts": ("pools",), "trace": ("events",), "counters": ("ports",), "give_back": ("vfs",)}
# A number of which the least counts.
_LEAST = "moving_at_once"


def _joined(name: str, answers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One result of those of several pools: the first, with what the others have in their lists."""
    result = dict(answers[0])
    for key in _JOINED.get(name, ()):
        lists = [answer.get(key) for answer in answers]
        if all(isinstance(each, list) for each in lists):
            result[key] = [item for each in lists for item in each or ()]
    limits = [answer.get(_LEAST) for answer in answers]
    if all(isinstance(limit, int) for limit in limits):
        result[_LEAST] = min(limit for limit in limits if limit is not None)
    return result


@dataclass(frozen=True)
class _Reply:
    """What ended the wait for an answer: the element of the answer, or without one that the request is gone."""

    answer: Optional[str]


class RemoteClient:
    """vfmigrated on the host to which `metadata` belongs; error messages call that host `name`."""

    def __init__(
        self, metadata: NetworkMetadata, name: str, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._metadata = metadata
        self._name = name
        self._sleep = sleep

    def ask(self, name: str, arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        """Send one request and wait at most `timeout` seconds for its result.

        The daemon answers about the pool of the network through which it is asked. So a request with a `pool` goes
        through the network of that pool, and one without to all pools: their answers are joined. Left out are networks
        that the user may not write and those of pools that are not configured any more, unless that leaves none. Raises
        the error that the daemon answers with, Unreachable without an answer, HostError when libvirt refuses.
        """
        line = network_message.wrap(
            protocol.encode_request(name, arguments), network_message.MAX_REQUEST_BYTES
        )
        end = time.monotonic() + timeout
        wanted = arguments.get("pool")
        answers: list[Mapping[str, Any]] = []
        refused: Optional[VfmigrateError] = None
        for network in self._networks(wanted, joined=name in _JOINED):
            try:
                answers.append(protocol.result_of(self._ask(network, line, end), self._name))
            except (HostError, Denied) as error:
                refused = refused or error
        if refused is not None and not answers:
            raise refused
        return _joined(name, answers)

    def _networks(self, pool: Optional[str], *, joined: bool) -> list[str]:
        """The networks through which to send a request, at least one. Raises Unreachable."""
        found = self._metadata.networks()
        names = [name for name in found if pool is None or found[name] == pool]
        if not names:
            which = "no network of a pool" if pool is None else f"no network of pool '{pool}'"
            raise self._unreachable(f"libvirt runs {which}")
        return names if joined else names[:1]

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(
            f"{self._name}: {why}, so vfmigrated there cannot be reached",
            f"run on {self._name}: vfmigrate provision",
        )

    def _ask(self, network: str, line: str, end: float) -> dict[str, Any]:
        """The answer to a request that is sent through a network. Raises HostError when libvirt refuses."""
        while True:
            answer = self._exchange(network, line, end)
            if answer is not None:
                return answer
            if time.monotonic() >= end:
                raise Unreachable(
                    f"{self._name}: vfmigrated does not answer through libvirt (network '{network}')",
                    f"run on {self._name}: systemctl start vfmigrated",
                )
            if network not in self._metadata.networks():
                raise self._unreachable(f"libvirt has stopped network '{network}'")

    def _exchange(self, network: str, element: str, end: float) -> Optional[dict[str, Any]]:
        """Send one request and return its answer; None when the request was removed unanswered, or time is up."""
        name = str(uuid.uuid4())
        request, answer = network_message.REQUEST + name, network_message.ANSWER + name
        self._metadata.write(network, request, element)
        try:
            return self._wait(network, request, answer, end)
        except HostError:
            self._sleep(_LONGEST_WAIT)
            if network in self._metadata.networks():
                raise
            return None  # the network was stopped, as when it is restarted with other VFs
        finally:
            for uri in (request, answer):
                with contextlib.suppress(VfmigrateError):
                    self._metadata.erase(network, uri)

    def _wait(self, network: str, request: str, answer: str, end: float) -> Optional[dict[str, Any]]:
        looks = itertools.count(1)

        def look() -> Optional[_Reply]:
            # In this order: the answer can come, and the request go, between the two calls.
            gone = next(looks) % _LOOKS_PER_CHECK == 0 and self._metadata.read(network, request) is None
            element = self._metadata.read(network, answer)
            return _Reply(element) if gone or element is not None else None

        self._sleep(_SHORTEST_WAIT)  # no answer is there at once
        left = end - time.monotonic()
        seen = poll(look, left, _SHORTEST_WAIT, longest=_LONGEST_WAIT, pause=self._sleep)
        if seen is None or seen.answer is None:
            return None
        return protocol.decode_answer(network_message.unwrap(seen.answer, network_message.MAX_ANSWER_BYTES))
