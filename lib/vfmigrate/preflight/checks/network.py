# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of the way between two hosts: clocks, names, ports, and how fast memory travels. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vfmigrate.domain.migrating_guest import VFIO
from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS
from vfmigrate.preflight.snapshot import OK, PAIR, AddressFacts, Line, Prospect, error, settled, warning
from vfmigrate.rules.findings import Finding

#: seconds by which clocks may differ: guests that read the host's clock notice more, and so do certificates
CLOCK_TOLERANCE = 2.0

REACHABLE = "reachable"
FILTERED = "filtered"


def lines(prospect: Prospect) -> Iterator[Line]:
    """All there is to say of the way."""
    if prospect.clock_ahead is not None:
        yield from settled(PAIR, "clock", "both clocks tell the same time", _clock(prospect))
    if prospect.address is not None:
        address = prospect.address
        fine = f"{prospect.source.name} finds {address.host}"
        yield from settled(PAIR, "address", fine, _address(prospect, address))
        if address.outcome is not None:
            fine = f"{address.host} lets migrations in (port {address.port})"
            yield from settled(PAIR, "ports", fine, _ports(prospect, address))
    if any(vf.strategy == VFIO for vf in prospect.vfs):
        yield Line(
            PAIR, "post-copy", OK, "moves by pre-copy only: post-copy is not possible with the state of a VF"
        )
    if prospect.dirty_mibs is not None:
        yield from settled(PAIR, "dirty-rate", _rates(prospect), _dirty(prospect))


def _clock(prospect: Prospect) -> Iterator[Finding]:
    ahead = prospect.clock_ahead or 0.0
    if abs(ahead) > CLOCK_TOLERANCE + prospect.clock_error:
        than = "ahead of" if ahead > 0 else "behind"
        yield warning(
            f"the clock of {prospect.destination.name} is {abs(ahead):.0f} s {than} that of {prospect.source.name}",
            "synchronise both: systemctl status chronyd",
        )


def _address(prospect: Prospect, address: AddressFacts) -> Iterator[Finding]:
    here, there = prospect.source.name, prospect.destination.name
    remedy = (
        f"make the name known to DNS or /etc/hosts of {here}, or set migration_host in qemu.conf of {there}"
    )
    if address.addresses is None:
        yield error(f"{here} cannot resolve '{address.host}', by which {there} is to be reached", remedy)
    elif any(each.startswith("127.") or each == "::1" for each in address.addresses):
        yield error(f"for {here}, '{address.host}' is {here} itself and not {there}", remedy)


def _ports(prospect: Prospect, address: AddressFacts) -> Iterator[Finding]:
    if address.outcome == REACHABLE:
        return
    facts = prospect.destination.facts
    ports = f"{facts.migration.port_min}-{facts.migration.port_max}" if facts else "49152-49215"
    opened = f"firewall-cmd --permanent --add-port={ports}/tcp; firewall-cmd --reload"
    remedy = f"run on {prospect.destination.name}: {opened}"
    if address.outcome == FILTERED:
        yield error(
            f"{address.host} does not let migrations in: port {address.port} is closed by a firewall "
            f"(libvirt takes {ports})",
            remedy,
        )
    else:
        yield warning(f"port {address.port} of {address.host} could not be tried: {address.outcome}", remedy)


def _rates(prospect: Prospect) -> str:
    uncounted = " (what its VF writes is not counted)" if prospect.vfs else ""
    told = f"the guest writes {prospect.dirty_mibs or 0.0:.0f} MiB/s of its memory anew{uncounted}"
    return f"{told}, and may migrate at {_bandwidth(prospect)}"


def _bandwidth(prospect: Prospect) -> str:
    most = prospect.bandwidth_mibs
    if most is None or most >= UNLIMITED_MIBS:
        return "whatever the wire gives"
    return f"{most} MiB/s"


def _dirty(prospect: Prospect) -> Iterator[Finding]:
    dirty, most = prospect.dirty_mibs or 0.0, prospect.bandwidth_mibs
    if most is not None and most < UNLIMITED_MIBS and dirty >= most:
        uncounted = ", what its VF writes not counted" if prospect.vfs else ""
        yield warning(
            f"the guest writes {dirty:.0f} MiB/s of its memory anew{uncounted}, and may migrate at {most} MiB/s: it "
            "will not come to an end",
            "allow more bandwidth (virsh migrate-setspeed), or use --auto-converge, or migrate when it is quieter",
        )
