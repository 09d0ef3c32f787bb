# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that came through the libvirt network of a pool: held to that pool, and to guests that they fit.

Whoever can write the metadata of one network may have no other right on this host. So such a request is about the pool
of that network only, and it cannot make vfmigrate plug a VF into a guest whose own metadata does not ask for it.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from vfmigrate.config.configuration import Config
from vfmigrate.domain.migrating_vf import migrating_vfs
from vfmigrate.errors import Denied, Refused
from vfmigrate.reservations.client_requests import ClaimRequest, read_claim_request
from vfmigrate.rpc.protocol import Request


class RemoteRequests:
    """Answers them by `answer`, which answers those of this host; `xml` is the XML of a domain that runs here.

    May call libvirt, and is never used while a hook waits.
    """

    def __init__(
        self,
        config: Config,
        answer: Callable[[Request], dict[str, Any]],
        xml: Callable[[str], Optional[str]],
    ) -> None:
        self._config = config
        self._answer = answer
        self._xml = xml

    def answer(self, network: str, request: Request) -> dict[str, Any]:
        """Answer a request that came through `network`. Raises VfmigrateError."""
        pool = self._config.pool_of_network(network)
        if pool is None:
            raise Denied(
                f"libvirt's network '{network}' belongs to no pool of this host",
                "set it with the key network of a pool in vfmigrate.conf",
            )
        named = request.optional_text("pool")
        if named not in (None, pool.name):
            raise Denied(
                f"a request through libvirt's network '{network}' cannot be about another pool than '{pool.name}'",
                "send it through the network of that pool",
            )
        bound = Request(request.name, {**request.arguments, "pool": pool.name})
        if bound.name == "claim":
            self._check_slot(read_claim_request(bound))
        return self._answer(bound)

    def _check_slot(self, wanted: ClaimRequest) -> None:
        """Raises Refused for a slot that is not that of the guest's own VF, or of a guest that is here already."""
        if wanted.slot is None:
            return
        xml = self._xml(wanted.domain)
        if wanted.source is not None:
            if xml is not None:
                raise Refused(
                    f"guest '{wanted.name}' already runs on this host, so no VF is reserved for its arrival",
                    "see virsh list",
                )
            return
        own = [one for one in (migrating_vfs(xml) if xml is not None else []) if one.mac == wanted.mac]
        if not any(one.slot == wanted.slot and one.strategy == wanted.strategy for one in own):
            raise Refused(
                f"guest '{wanted.name}' has no VF with MAC {wanted.mac} and strategy {wanted.strategy.name} "
                f"at its PCI address {wanted.slot} on this host",
                "see virsh dumpxml",
            )
