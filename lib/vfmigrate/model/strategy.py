# SPDX-License-Identifier: GPL-2.0-or-later
"""The strategies by which a VF's interface gets to another host: one row for each.

The only module that knows their names. All others ask a row what they need to know, so that another strategy is
another row, and the code in `strategies/` that only it needs. Imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Strategy:
    """One strategy, and what it asks of the VF, the card and the guest."""

    #: in the metadata, on the command line, in claims and messages
    name: str
    #: how the VF migrates, in words that follow "migrates"
    summary: str
    #: QEMU transfers the VF's device state, so both cards must match and the driver must be able to
    state_travels: bool = False
    #: the VF must be migratable before its driver binds
    needs_migratable: bool = False
    #: the VF counts while it migrates: a card migrates only a few at once
    uses_slot: bool = False
    #: the VF is half of a failover pair: a standby carries the guest while the VF is away
    teamed: bool = False
    #: the port is up only while the guest's driver has the VF; until then the standby receives the guest's frames
    port_follows_driver: bool = False
    #: vfmigrate unplugs the VF before libvirt migrates the guest, and plugs in another one afterwards
    unplugged_first: bool = False

    def __str__(self) -> str:
        return self.name


_VFIO = Strategy("vfio", "with its device state", state_travels=True, needs_migratable=True, uses_slot=True)
_FAILOVER = Strategy(
    "failover", "while its standby carries the traffic", teamed=True, port_follows_driver=True
)
_REPLUG = Strategy("replug", "unplugged, and replaced on the destination", unplugged_first=True)

#: every strategy by its name; the first is the default
STRATEGIES = {each.name: each for each in (_VFIO, _FAILOVER, _REPLUG)}
NAMES = tuple(STRATEGIES)
DEFAULT = NAMES[0]
#: what any VF can fall back to where its state cannot travel
REPLUGGED = _REPLUG


def named(name: Optional[str]) -> Strategy:
    """The strategy of this name, which is one of `NAMES`; without a name, the default."""
    return STRATEGIES[name or DEFAULT]


def of_interface(*, teamed: bool, marked: Optional[str]) -> Strategy:
    """The strategy of an interface: failover for half of a failover pair, else what its mark says, else the default.

    `teamed`: the VF is half of a pair now, whatever the mark says. `marked`: the strategy in the metadata, if any.
    """
    return _FAILOVER if teamed else named(marked)
