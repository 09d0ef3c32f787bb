# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of the guest itself, and of what it needs on the destination besides VFs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vfmigrate.domain.migrating_guest import VFIO, Disk
from vfmigrate.errors import Refused
from vfmigrate.preflight.snapshot import (
    DESTINATION,
    OK,
    PAIR,
    SOURCE,
    Line,
    Prospect,
    error,
    refusal,
    settled,
    warning,
)
from vfmigrate.rules import compatibility
from vfmigrate.rules.findings import Finding

#: file systems that several hosts can have mounted at the same time, as libvirt counts them (virFileIsSharedFSType)
_NETWORKED = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "fuse.ceph",
        "gfs",
        "gfs2",
        "ocfs2",
        "glusterfs",
        "fuse.glusterfs",
        "lustre",
        "gpfs",
        "afs",
        "fuse.quobyte",
        "virtiofs",
        "9p",
        "beegfs",
    )
)
#: those whose caches are kept the same on all hosts
_COHERENT = frozenset(("gfs", "gfs2", "ocfs2", "ceph", "fuse.ceph"))
_UNCACHED = ("none", "directsync")


def lines(prospect: Prospect) -> Iterator[Line]:
    """All there is to say of the guest."""
    guest = prospect.guest
    yield from settled(SOURCE, "running", "the guest runs", _running(prospect))
    if prospect.vfs:
        yield from settled(SOURCE, "viommu", "the guest has no virtual IOMMU", _viommu(prospect))
    yield from settled(SOURCE, "devices", "it has no devices that stay behind", _devices(prospect))
    yield from settled(DESTINATION, "name", "its name and UUID are free", _namesake(prospect))
    yield from settled(DESTINATION, "machine", f"it can run machine type {guest.machine}", _machine(prospect))
    yield from _cpu(prospect)
    if guest.networks or guest.bridges:
        yield from settled(
            DESTINATION,
            "networks",
            "the networks and bridges of its interfaces are there",
            _networks(prospect),
        )
    for disk in guest.disks:
        yield from settled(PAIR, "disk", _fine_disk(prospect, disk), _disk(prospect, disk))
    yield from settled(DESTINATION, "memory", "there is memory for it", _memory(prospect))


def _running(prospect: Prospect) -> Iterator[Finding]:
    if not prospect.running:
        yield warning(
            f"guest '{prospect.guest.domain.name}' does not run: it can be moved with --offline only",
            f"run: virsh migrate --offline --persistent {prospect.guest.domain.name} DESTURI",
        )


def _viommu(prospect: Prospect) -> Iterator[Finding]:
    carried = [vf.interface for vf in prospect.vfs if vf.strategy == VFIO]
    try:
        compatibility.check_guest(prospect.guest.domain, carried)
    except Refused as failure:
        yield refusal(failure)


def _devices(prospect: Prospect) -> Iterator[Finding]:
    for device in prospect.guest.host_devices:
        yield error(
            f"guest '{prospect.guest.domain.name}' has a {device} of {prospect.source.name}, which cannot travel",
            "unplug it: virsh detach-device --live",
        )


def _namesake(prospect: Prospect) -> Iterator[Finding]:
    if prospect.namesake is not None:
        yield error(
            f"{prospect.destination.name} has {prospect.namesake}",
            f"end or undefine it on {prospect.destination.name}",
        )


def _machine(prospect: Prospect) -> Iterator[Finding]:
    guest, there = prospect.guest, prospect.destination
    if prospect.machine_problem is not None:
        yield error(
            f"{there.name} cannot run machine type {guest.machine} with {guest.emulator}: "
            f"{prospect.machine_problem}",
            "bring QEMU there to the version of the source, or give the guest an older machine type",
        )
    elif there.libvirt.qemu < prospect.source.libvirt.qemu:
        yield warning(
            f"QEMU on {there.name} is older than on {prospect.source.name}; migration to an older one is not "
            "supported everywhere",
            "update it",
        )


def _cpu(prospect: Prospect) -> Iterator[Line]:
    cpu, name = prospect.cpu, prospect.destination.name
    if cpu is None:
        return
    fine = "the destination has what the guest's CPU needs"
    if cpu.fits is None:
        found = [
            warning(
                f"libvirt could not compare the guest's CPU with that of {name}: {cpu.problem}",
                f"see virsh -c DESTURI hypervisor-cpu-compare, or move a guest of this CPU model to {name} once",
            )
        ]
        yield from settled(DESTINATION, "cpu", fine, found)
    elif cpu.fits:
        yield Line(DESTINATION, "cpu", OK, fine)
        if prospect.guest.cpu_mode == "host-passthrough":
            yield Line(
                PAIR,
                "cpu",
                "warning",
                "the guest's CPU is host-passthrough: it moves only between hosts of the same CPU, firmware and kernel",
                "give it the baseline of both, or mode host-model",
            )
    else:
        why = f": {cpu.problem}" if cpu.problem else ""
        remedy = (
            "give the guest the CPU below, which both hosts have, and restart it"
            if cpu.baseline
            else ("give the guest a CPU model that both hosts have: virsh hypervisor-cpu-baseline")
        )
        text = f"{name} cannot give the guest its CPU{why}"
        yield Line(DESTINATION, "cpu", "error", text, remedy, cpu.baseline or "")


def _networks(prospect: Prospect) -> Iterator[Finding]:
    there = prospect.destination
    for name in prospect.guest.networks:
        if name not in there.libvirt.networks:
            ours = _pool_of_network(prospect, name)
            remedy = (
                f"run on {there.name}: vfmigrate provision" if ours else "define it there: virsh net-define"
            )
            yield error(f"libvirt on {there.name} has no network '{name}'", remedy)
        elif not there.libvirt.networks[name]:
            yield error(
                f"libvirt network '{name}' does not run on {there.name}",
                f"run on {there.name}: virsh net-start {name}",
            )
    for name in prospect.guest.bridges:
        bridge = there.bridge(name)
        if bridge is None or bridge.kind is not None:
            continue
        here = prospect.source.bridge(name)
        how = f"ip link add {name} type bridge"
        if here is None or here.kind != "linux":
            how = f"ovs-vsctl add-br {name}"
        standby = any(each.source == name for each in prospect.guest.domain.standbys)
        whose = "the standby of its failover pair" if standby else "an interface of the guest"
        yield error(
            f"there is no bridge '{name}' on {there.name}, which {whose} needs", f"run on {there.name}: {how}"
        )


def _pool_of_network(prospect: Prospect, network: str) -> bool:
    facts = prospect.destination.facts
    return facts is not None and any(pool.network == network for pool in facts.pools)


def _fine_disk(prospect: Prospect, disk: Disk) -> str:
    told = f"disk {disk.target} ({disk.path or disk.kind})"
    if prospect.copies_storage and disk.path is not None and not disk.readonly:
        return f"{told} is copied along"
    there = prospect.destination.file(disk.path) if disk.path is not None else None
    if disk.path is None:
        return f"{told} is reached over the network"
    return f"{told} is on both hosts" if there is not None and there.exists else f"{told}: nobody could look"


def _disk(prospect: Prospect, disk: Disk) -> Iterator[Finding]:
    if disk.path is None:
        return
    here, there = prospect.source.file(disk.path), prospect.destination.file(disk.path)
    told, name = f"disk {disk.target} ({disk.path})", prospect.destination.name
    if prospect.copies_storage and not disk.readonly:
        return
    if there is not None and there.exists is False:
        copy = (
            "share it between the hosts"
            if disk.readonly
            else "share it between the hosts, or migrate with --copy-storage-all"
        )
        yield error(f"{told} is not on {name}", copy)
        return
    if here is None or there is None or here.exists is not True or there.exists is not True:
        yield warning(f"{told}: whether {name} can reach it could not be looked up", "see that it is shared")
        return
    if here.kind != there.kind or (here.kind == "file" and here.size != there.size):
        yield error(
            f"{told} on {name} is another than on {prospect.source.name}: their sizes or kinds differ",
            "share it between the hosts, or migrate with --copy-storage-all",
        )
    elif here.kind == "file" and not disk.readonly:
        yield from _shared(prospect, disk, told, here.filesystem, there.filesystem)


def _shared(prospect: Prospect, disk: Disk, told: str, here: object, there: object) -> Iterator[Finding]:
    if here not in _NETWORKED or there not in _NETWORKED:
        where = prospect.source.name if here not in _NETWORKED else prospect.destination.name
        kind = here if here not in _NETWORKED else there
        yield error(
            f"{told} is on a file system of {where} alone ({kind})",
            "share it between the hosts, or migrate with --copy-storage-all",
        )
    elif disk.cache not in _UNCACHED and here not in _COHERENT:
        yield warning(
            f"{told} is on {here} with cache='{disk.cache or 'default'}': what one host has cached the other may "
            "not see",
            "set cache='none' for it: virsh edit, and restart the guest",
        )


def _memory(prospect: Prospect) -> Iterator[Finding]:
    there = prospect.destination
    available, needed = there.libvirt.available_kib, prospect.guest.memory_kib
    if available is not None and available < needed:
        yield warning(
            f"{there.name} has {available // 1024} MiB of memory to give, and the guest has {needed // 1024}",
            "move or shut down another guest there first",
        )
