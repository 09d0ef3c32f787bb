# SPDX-License-Identifier: GPL-2.0-or-later
"""How libvirt is to migrate a guest. Plain values; `virt.transfer` makes libvirt's flags and parameters of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

#: QEMU's default downtime, in ms (migration parameter downtime-limit)
USUAL_DOWNTIME_MS = 300


@dataclass(frozen=True)
class MigrationOptions:
    """How a guest is to be migrated: what virsh's options of the same names say."""

    persistent: bool = False
    undefine_source: bool = False
    #: 'all' or 'inc': copy disks that both hosts do not share
    copy_storage: Optional[str] = None
    parallel: bool = False
    parallel_connections: Optional[int] = None
    #: MiB a second
    bandwidth: Optional[int] = None
    tls: bool = False
    p2p: bool = False
    auto_converge: bool = False
    unsafe: bool = False
    migrate_uri: Optional[str] = None
