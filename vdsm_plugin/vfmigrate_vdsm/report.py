# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host says of itself to the engine: its pools, with cards and free VFs, under the key `vfmigrate`."""

from __future__ import annotations

from vfmigrate_vdsm import handover
from vfmigrate_vdsm.daemon import Daemon

KEY = "vfmigrate"


def after_get_caps(daemon: Daemon) -> None:
    """Pools with PSID and firmware of their cards."""
    pools = daemon.ask("pools")
    handover.write_json({**handover.read_json(), KEY: dict(pools)})


def after_get_stats(daemon: Daemon) -> None:
    """How many VFs each pool has, and has free."""
    counts = {
        pool["name"]: {"vfs": pool["vfs"], "free": pool["free"]} for pool in daemon.ask("pools")["pools"]
    }
    handover.write_json({**handover.read_json(), KEY: counts})
