# SPDX-License-Identifier: GPL-2.0-or-later
"""The custom properties of a vNIC, as the engine's administrator sets them and vdsm puts them in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from vfmigrate_vdsm.daemon import PluginError

STRATEGY = "vfmigrate_strategy"
POOL = "vfmigrate_pool"
VLAN = "vfmigrate_vlan"

VFIO = "vfio"
#: chosen by the engine's own vNIC profile (passthrough, with or without failover); here for the record only
BY_PROFILE = ("failover", "replug")


@dataclass(frozen=True)
class Properties:
    """What a vNIC with strategy vfio asks for."""

    pool: str
    vlan: Optional[int] = None


def read(environment: Mapping[str, str]) -> Optional[Properties]:
    """The properties of the vNIC at hand; None when it is not one that takes its VF's state along.

    Raises PluginError for a value that is none.
    """
    strategy = environment.get(STRATEGY)
    if strategy is None or strategy in BY_PROFILE:
        return None
    if strategy != VFIO:
        raise PluginError(f"{STRATEGY} of the vNIC is {strategy[:40]!a}; it may be vfio, failover or replug")
    pool = environment.get(POOL, "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", pool):
        raise PluginError(
            f"{POOL} of the vNIC is {pool[:40]!a}, which is no name of a pool; see vfmigrate.conf"
        )
    return Properties(pool, _vlan(environment.get(VLAN)))


def _vlan(text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 4094:
        raise PluginError(f"{VLAN} of the vNIC is {text[:40]!a}; it may be a number from 1 to 4094")
    return int(text)
