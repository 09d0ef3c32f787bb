# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host's pools, VFs and claims look like now, as plain values for the CLI and for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vfmigrate.claims import ClaimStore
from vfmigrate.config import Config
from vfmigrate.errors import VfmigrateError
from vfmigrate.host import Host, VfState

SCHEMA = 1


def status(config: Config, host: Host, store: ClaimStore) -> dict[str, Any]:
    """Pools with their PFs and VFs, and every claim. What cannot be looked at says why in `problem`."""
    pools = []
    for pool in config.pools.values():
        pfs = [_pf(host, store, pf) for pf in pool.pfs]
        pools.append({"name": pool.name, "bridge": pool.bridge, "vlan": pool.vlan, "pfs": pfs})
    claims = [{**asdict(claim), "vf": str(claim.vf)} for claim in store.all()]
    return {"schema": SCHEMA, "pools": pools, "claims": claims}


def _pf(host: Host, store: ClaimStore, pf: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"address": str(pf)}
    try:
        card = host.card(pf)
        told.update(psid=card.psid, firmware=card.firmware, mode=host.devlink.eswitch_mode(pf))
        told["vfs"] = [_vf(store, state) for state in host.survey(pf)]
    except VfmigrateError as error:
        told["problem"] = str(error)
    return told


def _vf(store: ClaimStore, state: VfState) -> dict[str, Any]:
    claim = store.get(state.vf)
    port = state.switch_port
    return {
        "address": str(state.vf),
        "driver": state.driver,
        "migratable": state.migratable,
        "representor": state.representor,
        "link_up": state.link_up,
        "bridge": port.bridge if port else None,
        "tag": port.tag if port else None,
        "guest": claim.domain_name if claim else None,
        "state": claim.state if claim else "free",
    }
