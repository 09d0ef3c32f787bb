# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a VF that migrates between two hosts, and the expected states of both hosts.

A failed migration must leave no trace: whichever host the guest runs on in the end, both look as after a migration
without failures.
"""

from __future__ import annotations

import time
from dataclasses import replace

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import VFS, Migration, Node, Outcome, Pair, State
from vfmigrate.ovs.openvswitch import OWNER_KEY

MAC = "52:54:00:00:00:02"
NAME = "g"
VLAN = 42
# MiB/s, libvirt's minimum, and how much there is to copy at that speed.
SLOW = 1
BALLAST_MIB = 16
# the time in which libvirt notices that the other host is gone, on a busy machine
PATIENCE_S = 60.0
# Claims that changed less long ago are left alone when libvirt does not know of their domain (reconciler.py).
GRACE_S = 16.0


def told(state: State) -> State:
    """A state without what differs between migrations: the IDs of the claims that own ports."""
    ports = {
        name: replace(port, ids={key: value for key, value in port.ids.items() if key != OWNER_KEY})
        for name, port in state.switch_ports.items()
    }
    return replace(state, switch_ports=ports)


class Journey:
    """The guest, on the first host of a pair whose daemons run."""

    def __init__(self, pair: Pair, *, extra: str = "", ballast: int = 0) -> None:
        """Start the guest; `extra` are further devices, `ballast` MiB of its memory take time to copy."""
        self.pair = pair
        pair.a.set_ballast(ballast)
        self.empty = self.states()
        # The VF that the daemon would choose, so that the guest has the same one whenever it comes back.
        self.guest = Guest(NAME, [Vf(pair.a.vf(VFS - 1), MAC, vlan=VLAN)], extra=extra)
        self.begin()
        self.home = self.states()
        assert self.home[0].guests == {NAME: "running"}

    def begin(self) -> None:
        """Start the guest on the first host."""
        self.pair.a.start_guest(self.guest)
        self.pair.a.wait_until_settled()

    def states(self) -> tuple[State, State]:
        """Both hosts now."""
        return told(self.pair.a.state()), told(self.pair.b.state())

    def travel(self) -> Outcome:
        """Migrate to the second host; returns when both hosts have settled."""
        outcome = self.pair.a.migrate(NAME, self.pair.b)
        assert outcome.status == 0, outcome.error
        self.pair.b.wait_until_settled()
        return outcome

    def learn(self) -> None:
        """Migrate there and back undisturbed, and record the states of both hosts."""
        self.travel()
        self.pair.a.become(self.empty[0], told)
        self.away = self.states()
        back = self.pair.b.migrate(NAME, self.pair.a)
        assert back.status == 0, back.error
        self.pair.a.wait_until_settled()
        self._become(self.home)

    def begin_slowly(self) -> Migration:
        """Begin a migration at minimum speed; returns while the memory is being copied."""
        self.pair.a.host.virsh("migrate-setspeed", NAME, str(SLOW))
        migration = self.pair.a.begin_migration(NAME, self.pair.b)
        wait_for("the memory to be copied", self.is_copying, PATIENCE_S)
        return migration

    def is_copying(self) -> bool:
        """Whether libvirt on the source reports copied memory."""
        return "Memory processed" in self.pair.a.host.virsh("domjobinfo", NAME, check=False)

    def stays(self) -> None:
        """Expect the guest to run on the first host only, and both hosts to be as before after one reconcile."""
        wait_for(
            "the guest to run at home only", lambda: self._guests() == self._guests_of(self.home), PATIENCE_S
        )
        self._settle()
        self._become(self.home)

    def is_away(self) -> bool:
        """Wait until the guest runs on one host only; returns whether that is the second one."""
        ends = (self._guests_of(self.home), self._guests_of(self.away))
        wait_for("the guest to run on one host only", lambda: self._guests() in ends, PATIENCE_S)
        return self._guests() == ends[1]

    def arrives_or_stays(self) -> bool:
        """Expect the guest to run on one host, and both to look as they should; returns whether it migrated."""
        away = self.is_away()
        self._settle()
        expected = self.away if away else self.home
        self._become(expected)
        return away

    def _become(self, states: tuple[State, State]) -> None:
        for node, state in zip((self.pair.a, self.pair.b), states):
            node.become(state, told)

    def _settle(self) -> None:
        """Wait until reservations have expired, and reconcile each host once."""
        for node in (self.pair.a, self.pair.b):
            wait_out(node)
            node.reconcile()

    def _guests(self) -> list[dict[str, str]]:
        return [node.host.domains() for node in (self.pair.a, self.pair.b)]

    @staticmethod
    def _guests_of(states: tuple[State, State]) -> list[dict[str, str]]:
        return [dict(state.guests) for state in states]


def wait_out(node: Node) -> None:
    """Wait until the daemon can distinguish abandoned claims from those of starting guests."""
    running = {node.host.virsh("domuuid", name) for name in node.host.domains()}
    for claim in node.product.claims().values():
        if claim["expires"] is not None:
            end = claim["expires"]
        elif claim["domain"] not in running:
            end = claim["since"] + GRACE_S
        else:
            continue
        time.sleep(max(0.0, end - time.clock_gettime(time.CLOCK_BOOTTIME)))
