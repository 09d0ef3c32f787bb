# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the guest, and of what it needs on the destination besides VFs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vfmigrate.domain.migrating_guest import Disk
from vfmigrate.errors import Refused
from vfmigrate.preflight.snapshot import (
    DESTINATION,
    OK,
    PAIR,
    SOURCE,
    CheckResult,
    Snapshot,
    as_results,
    error,
    refusal,
    warning,
)
from vfmigrate.rules import compatibility
from vfmigrate.rules.findings import Finding
from vfmigrate.text import command, quoted

#: file systems that several hosts can mount at the same time, by libvirt's list (virFileIsSharedFSType)
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
#: those that keep the caches of all hosts coherent
_COHERENT = frozenset(("gfs", "gfs2", "ocfs2", "ceph", "fuse.ceph"))
_UNCACHED = ("none", "directsync")


def results(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results for the guest."""
    guest = snapshot.guest
    yield from as_results(SOURCE, "running", "the guest runs", _running(snapshot))
    yield from leaving(snapshot)
    yield from as_results(DESTINATION, "name", "the guest's name and UUID are free", _name_conflict(snapshot))
    yield from as_results(
        DESTINATION, "machine", f"machine type {guest.machine} is supported", _machine(snapshot)
    )
    yield from _cpu(snapshot)
    if guest.networks or guest.bridges:
        yield from as_results(
            DESTINATION,
            "networks",
            "the networks and bridges of the guest's interfaces exist",
            _networks(snapshot),
        )
    for disk in guest.disks:
        if disk.kind not in ("file", "block", "network"):
            continue  # `devices` has what there is to say
        yield from as_results(PAIR, "disk", _fine_disk(snapshot, disk), _disk(snapshot, disk))
    yield from as_results(DESTINATION, "memory", "there is enough memory for the guest", _memory(snapshot))


def leaving(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results that do not depend on the destination: whether the guest can leave the source at all."""
    if snapshot.vfs:
        yield from as_results(SOURCE, "viommu", "the guest has no virtual IOMMU", _viommu(snapshot))
    yield from as_results(
        SOURCE, "devices", "the guest has no devices that cannot migrate", _devices(snapshot)
    )


def _running(snapshot: Snapshot) -> Iterator[Finding]:
    if not snapshot.running:
        yield warning(
            f"guest '{snapshot.guest.domain.name}' is not running: only its definition can be migrated",
            f"run: virsh migrate --offline --persistent {quoted(snapshot.guest.domain.name)} DESTURI",
        )


def _viommu(snapshot: Snapshot) -> Iterator[Finding]:
    carried = [vf.interface for vf in snapshot.vfs if vf.strategy.state_travels]
    try:
        compatibility.check_guest(snapshot.guest.domain, carried)
    except Refused as failure:
        yield refusal(failure)


def _devices(snapshot: Snapshot) -> Iterator[Finding]:
    guest, here = snapshot.guest.domain.name, snapshot.source.name
    for device in snapshot.guest.devices:
        if device.blocks:
            yield error(
                f"{here}: {device.name} of guest '{guest}' {device.why}",
                f"run: virsh detach-device {quoted(guest)} FILE --live",
            )
        else:
            yield warning(
                f"{here}: {device.name} of guest '{guest}' {device.why}",
                f"make sure of that on {snapshot.destination.name}, or unplug it: "
                f"virsh detach-device {quoted(guest)} FILE --live",
            )


def _name_conflict(snapshot: Snapshot) -> Iterator[Finding]:
    found, there = snapshot.name_conflict, snapshot.destination.name
    if found is None:
        return
    if found.same:
        yield error(
            f"{there}: {found.text} runs there already",
            f"find out on {snapshot.source.name} and on {there} which of the two is the right one: virsh list",
        )
    else:
        yield error(
            f"{there}: there is {found.text}",
            "give one of the two another name and UUID: virsh domrename, or virsh dumpxml and virsh define",
        )


def _machine(snapshot: Snapshot) -> Iterator[Finding]:
    guest, there = snapshot.guest, snapshot.destination
    if snapshot.machine_problem is not None:
        yield error(
            f"{there.name}: {guest.emulator} cannot run machine type {guest.machine}: "
            f"{snapshot.machine_problem}",
            f"update QEMU on {there.name} to the version of {snapshot.source.name}, "
            "or use an older machine type: virsh edit",
        )
    elif there.libvirt.qemu < snapshot.source.libvirt.qemu:
        yield warning(
            f"{there.name}: QEMU is older than on {snapshot.source.name}; not every vendor supports migration to an "
            "older QEMU",
            f"update QEMU on {there.name}",
        )


def _cpu(snapshot: Snapshot) -> Iterator[CheckResult]:
    cpu, name = snapshot.cpu, snapshot.destination.name
    if cpu is None:
        return
    fine = "the host can provide the guest's CPU"
    if cpu.fits is None:
        found = [
            warning(
                f"{name}: libvirt could not compare the guest's CPU with the host's: {cpu.problem}",
                "compare them with: virsh -c DESTURI hypervisor-cpu-compare FILE",
            )
        ]
        yield from as_results(DESTINATION, "cpu", fine, found)
    elif cpu.fits:
        yield CheckResult(DESTINATION, "cpu", OK, fine)
        if snapshot.guest.cpu_mode == "host-passthrough":
            yield CheckResult(
                PAIR,
                "cpu",
                "warning",
                "the guest's CPU mode is host-passthrough: both hosts must have the same CPU, microcode and kernel",
                "use CPU mode host-model, or a baseline of both hosts: virsh edit",
            )
    else:
        why = f": {cpu.problem}" if cpu.problem else ""
        remedy = (
            "set the CPU below, which both hosts can provide, with virsh edit, and restart the guest"
            if cpu.baseline
            else "set a CPU model that both hosts can provide: virsh hypervisor-cpu-baseline"
        )
        text = f"{name}: the host cannot provide the guest's CPU{why}"
        yield CheckResult(DESTINATION, "cpu", "error", text, remedy, cpu.baseline or "")


def _networks(snapshot: Snapshot) -> Iterator[Finding]:
    there = snapshot.destination
    for name in snapshot.guest.networks:
        if name not in there.libvirt.networks:
            ours = _pool_of_network(snapshot, name)
            remedy = (
                f"run on {there.name}: vfmigrate provision"
                if ours
                else f"run on {there.name}: virsh net-define FILE"
            )
            yield error(f"{there.name}: libvirt has no network '{name}'", remedy)
        elif not there.libvirt.networks[name]:
            yield error(
                f"{there.name}: libvirt network '{name}' is not running",
                f"run on {there.name}: virsh net-start {quoted(name)}",
            )
    for name in snapshot.guest.bridges:
        bridge = there.bridge(name)
        if bridge is None or bridge.kind is not None:
            continue
        here = snapshot.source.bridge(name)
        how = f"ip link add {quoted(name)} type bridge"
        if here is None or here.kind != "linux":
            how = f"ovs-vsctl add-br {quoted(name)}"
        standby = any(each.source == name for each in snapshot.guest.domain.standbys)
        whose = "the standby of its failover pair" if standby else "an interface of the guest"
        yield error(
            f"{there.name}: there is no bridge '{name}', which {whose} needs", f"run on {there.name}: {how}"
        )


def _pool_of_network(snapshot: Snapshot, network: str) -> bool:
    facts = snapshot.destination.facts
    return facts is not None and any(pool.network == network for pool in facts.pools)


def _fine_disk(snapshot: Snapshot, disk: Disk) -> str:
    which = f"disk {disk.target} ({disk.path or disk.kind})"
    if snapshot.copies_storage and disk.path is not None and not disk.readonly:
        return f"{which} will be copied"
    if disk.is_empty:
        return f"disk {disk.target} is an empty drive"
    there = snapshot.destination.file(disk.path) if disk.path is not None else None
    if disk.path is None:
        return f"{which} is on the network"
    return f"{which} is on both hosts" if there is not None and there.exists else f"{which}: not checked"


def _disk(snapshot: Snapshot, disk: Disk) -> Iterator[Finding]:
    if disk.path is None:
        return
    here, there = snapshot.source.file(disk.path), snapshot.destination.file(disk.path)
    which, name = f"disk {disk.target} ({disk.path})", snapshot.destination.name
    if snapshot.copies_storage and not disk.readonly:
        return
    if there is not None and there.exists is False and disk.may_be_absent:
        yield warning(
            f"{name}: {which} does not exist; its drive will be empty there, as its startupPolicy allows",
            "share it between the hosts, or eject it: "
            f"virsh change-media {quoted(snapshot.guest.domain.name)} {quoted(disk.target)} --eject",
        )
        return
    if there is not None and there.exists is False:
        copy = (
            "share it between the hosts"
            if disk.readonly
            else "share it between the hosts, or migrate with --copy-storage-all"
        )
        yield error(f"{name}: {which} does not exist", copy)
        return
    if here is not None and here.kind == "file" and here.filesystem not in _NETWORKED and not disk.readonly:
        yield from _shared(snapshot, disk, which, here.filesystem, here.filesystem)
        return
    if here is None or there is None or here.exists is not True or there.exists is not True:
        yield warning(
            f"{name}: could not check whether {which} exists",
            f"check that {disk.path} is shared by both hosts",
        )
        return
    if here.kind != there.kind or (here.kind == "file" and here.size != there.size):
        yield error(
            f"{name}: {which} differs from that on {snapshot.source.name} in size or type",
            "share it between the hosts, or migrate with --copy-storage-all",
        )
    elif here.kind == "file" and not disk.readonly:
        yield from _shared(snapshot, disk, which, here.filesystem, there.filesystem)


def _shared(snapshot: Snapshot, disk: Disk, which: str, here: object, there: object) -> Iterator[Finding]:
    if here not in _NETWORKED or there not in _NETWORKED:
        where = snapshot.source.name if here not in _NETWORKED else snapshot.destination.name
        kind = here if here not in _NETWORKED else there
        yield error(
            f"{where}: {which} is on a local file system ({kind})",
            "share it between the hosts, or migrate with --copy-storage-all",
        )
    elif disk.cache not in _UNCACHED and here not in _COHERENT:
        yield warning(
            f"{which} is on {here} with cache='{disk.cache or 'default'}': the hosts' caches can differ",
            "set cache='none' for this disk with virsh edit, and restart the guest",
        )


def _memory(snapshot: Snapshot) -> Iterator[Finding]:
    there = snapshot.destination
    needed = snapshot.guest.memory_kib
    if snapshot.guest.page_kib is not None:
        yield from _huge_pages(snapshot, snapshot.guest.page_kib, needed)
        return
    available = there.libvirt.available_kib
    if available is not None and available < needed:
        yield warning(
            f"{there.name}: {available // 1024} MiB of memory are free, and the guest has {needed // 1024} MiB",
            f"migrate another guest away from {there.name}",
        )


def _huge_pages(snapshot: Snapshot, size: int, needed: int) -> Iterator[Finding]:
    """They are set aside: a host with much free memory can have none of them, and the other way round."""
    there = snapshot.destination
    known = there.libvirt.free_pages
    if known is not None and size == 0 and len(known) == 1:
        (size,) = known
    if known is None or size == 0:
        yield warning(
            f"{there.name}: the guest's memory is in huge pages, and it is not known how many are free there",
            f"look on {there.name}: virsh freepages --all",
        )
        return
    free = known.get(size, 0) * size
    if free < needed:
        pages = str(-(-needed // size))
        yield error(
            f"{there.name}: {free // 1024} MiB of huge pages of {size} KiB are free, and the guest has "
            f"{needed // 1024} MiB in such pages",
            f"run on {there.name}: "
            f"{command('virsh', 'allocpages', '--pagesize', f'{size}KiB', '--pagecount', pages)}",
        )
