# SPDX-License-Identifier: GPL-2.0-or-later
"""The pools' networks in libvirt: compare them with the pools' VFs, and define, start or restart what differs.

May call libvirt, and so never runs while a hook waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable

from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge import vf_use
from vfmigrate.converge.observe import Host
from vfmigrate.converge.plan import Step, Verb
from vfmigrate.converge.vf_use import User
from vfmigrate.domain import network_xml
from vfmigrate.errors import Unreachable
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import spread

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python, which pure tests do without


class Networks:
    """The networks of all pools that have one."""

    def __init__(self, config: Config, host: Host, store: ClaimStore, hypervisor: Hypervisor) -> None:
        self._config = config
        self._host = host
        self._store = store
        self._hypervisor = hypervisor

    def steps(self, pool: Pool, vfs: Sequence[PciAddress]) -> list[Step]:
        """The steps after which the pool's network assigns these VFs.

        A network is restarted only while no guest has a VF of the pool: libvirt forgets with it which VFs are taken.
        Raises Unreachable when libvirt does not run, HostError for a network of this name that is not vfmigrate's.
        """
        name = pool.libvirt_network
        if name is None or not vfs:
            return []
        state = self._hypervisor.network(name)
        actions = network_xml.differences(name, pool.name, vfs, state)
        if "restart" in actions and self._is_assigned(pool):
            actions = [action for action in actions if action != "restart"]
        xml = network_xml.render(name, pool.name, vfs, network_xml.identity(name, state))
        return [self._step(action, name, xml, len(vfs)) for action in actions]

    def keep(self, pool: Pool) -> list[str]:
        """Apply to a pool's network what can be applied without harm to a guest; returns what was done, in words.

        Raises as `steps()`.
        """
        done = []
        for step in self.steps(pool, self._vfs(pool)):
            step.run(None)  # type: ignore[arg-type]  # of libvirt, not of the host
            done.append(step.done)
        return done

    def unreachable_warning(self, pool: Pool, error: Unreachable) -> str:
        """The warning for a pool's network while libvirt does not run; the reconciler defines it once libvirt runs."""
        return f"libvirt network {pool.libvirt_network} will be defined when libvirt runs ({error.problem})"

    def _vfs(self, pool: Pool) -> list[PciAddress]:
        present = [pf for pf in pool.pfs if self._host.sysfs.exists(pf)]
        return spread.interleaved([self._host.sysfs.vfs(pf) for pf in present])

    def _is_assigned(self, pool: Pool) -> bool:
        """Whether libvirt may have assigned a VF of the pool; what this host itself uses it has not."""
        if any(claim.pool == pool.name for claim in self._store.all_valid()):
            return True
        uses = vf_use.unclaimed_use(self._host, dict.fromkeys(self._vfs(pool), pool)).values()
        return any(use.user is not User.HOST for use in uses)

    def _step(self, action: str, name: str, xml: str, count: int) -> Step:
        network = f"libvirt network {name}"
        steps: dict[str, tuple[Verb, str, Callable[[], None]]] = {
            "define": (
                Verb.DEFINE,
                f"{network} with {count} VFs",
                lambda: self._hypervisor.define_network(xml),
            ),
            "start": (Verb.START, network, lambda: self._hypervisor.start_network(name)),
            "restart": (Verb.RESTART, network, lambda: self._restart(name)),
            "autostart": (
                Verb.SET,
                f"{network} to autostart",
                lambda: self._hypervisor.autostart_network(name),
            ),
        }
        verb, rest, run = steps[action]
        return Step(verb, rest, lambda _host: run())

    def _restart(self, name: str) -> None:
        self._hypervisor.stop_network(name)
        self._hypervisor.start_network(name)
