# SPDX-License-Identifier: GPL-2.0-or-later
"""A fake card as sysfs: its files, links and directories, and what a write does.

Paths are relative to the mount point. `tree()` is a snapshot, cheap enough to make again after every write; `write()`
does what the kernel's `store` methods do. A FUSE file system serves both. `make()` writes the snapshot into a plain
directory, which shows the state but does not act on writes.
"""

from __future__ import annotations

import errno
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from tests.fakes.card import Card
from tests.fakes.hardware import Function


@dataclass(frozen=True)
class File:
    """A regular file: its content, and whether its mode lets root's shell write it."""

    content: bytes
    writable: bool = False


@dataclass(frozen=True)
class Link:
    """A symbolic link, relative as sysfs makes them."""

    target: str


@dataclass(frozen=True)
class Directory:
    """A directory that is there even when empty."""


Tree = dict[str, Union[File, Link, Directory]]

_DEVICES = "bus/pci/devices"
_DRIVERS = "bus/pci/drivers"


def device_path(address: str) -> str:
    """The directory of a function: below a root port of its bus."""
    domain, bus, _ = address.split(":")
    return f"devices/pci{domain}:{int(bus, 16) & 0xE0:02x}/{domain}:{int(bus, 16) & 0xE0:02x}:01.1/{address}"


def tree(card: Card) -> Tree:
    """Lay out the whole card: its functions, drivers, IOMMU groups and network devices."""
    entries: Tree = {
        "bus/pci/drivers_probe": File(b"", writable=True),
        "bus/pci/drivers_autoprobe": _text("1"),
        _DEVICES: Directory(),
        "class/net": Directory(),
        "kernel/iommu_groups": Directory(),
    }
    for driver in card.drivers():
        module = driver.replace("-", "_")
        for name in ("bind", "unbind", "new_id"):
            entries[f"{_DRIVERS}/{driver}/{name}"] = File(b"", writable=True)
        _link(entries, f"{_DRIVERS}/{driver}/module", f"module/{module}")
        _link(entries, f"module/{module}/drivers/pci:{driver}", f"{_DRIVERS}/{driver}")
    for function in card.functions():
        _add_function(entries, card, function)
    return entries


def write(card: Card, path: str, text: str) -> None:
    """Do what writing `text` to the file at `path` does; raises OSError where the kernel refuses it."""
    *_, parent, name = path.split("/")
    if path == "bus/pci/drivers_probe":
        card.drivers_probe(text)
    elif path.startswith(f"{_DRIVERS}/") and name in {"bind", "unbind", "new_id"}:
        {"bind": card.bind, "unbind": card.unbind, "new_id": card.new_id}[name](parent, text)
    elif name == "driver_override":
        card.driver_override(parent, text)
    elif name == "sriov_numvfs":
        card.numvfs(parent, text)
    elif name == "sriov_drivers_autoprobe":
        card.autoprobe(parent, text)
    elif name == "sriov_vf_msix_count":
        card.msix_count(parent, text)
    elif name not in {"uevent", "config"}:  # these two accept any text
        raise OSError(errno.EACCES, "")


def make(card: Card, root: Path) -> None:
    """Write the picture below the directory `root`."""
    for path, entry in tree(card).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, Directory):
            place.mkdir(exist_ok=True)
        elif isinstance(entry, Link):
            place.symlink_to(entry.target)
        else:
            place.write_bytes(entry.content)


def _add_function(entries: Tree, card: Card, function: Function) -> None:
    path = device_path(function.address)
    _link(entries, f"{_DEVICES}/{function.address}", path)
    _link(entries, f"{path}/subsystem", "bus/pci")
    for name, content in _attributes(card, function).items():
        entries[f"{path}/{name}"] = content
    if function.driver is not None:
        _link(entries, f"{path}/driver", f"{_DRIVERS}/{function.driver}")
        _link(entries, f"{_DRIVERS}/{function.driver}/{function.address}", path)
        if function.driver in {"vfio-pci", card.hardware.variant_driver}:
            # libvirt recognises variant drivers by this (drivers/vfio/vfio_main.c)
            entries[f"{path}/vfio-dev/vfio{function.iommu_group}"] = Directory()
    if function.iommu_group is not None:
        group = f"kernel/iommu_groups/{function.iommu_group}"
        _link(entries, f"{path}/iommu_group", group)
        _link(entries, f"{group}/devices/{function.address}", path)
    if function.pf is not None:
        _link(entries, f"{path}/physfn", device_path(function.pf))
        _link(entries, f"{device_path(function.pf)}/virtfn{function.vf}", path)
    _add_netdevs(entries, card, function.address)


def _attributes(card: Card, function: Function) -> dict[str, File]:
    hardware = card.hardware
    files = {
        "vendor": _text(f"0x{function.vendor:04x}"),
        "device": _text(f"0x{function.device:04x}"),
        "subsystem_vendor": _text(f"0x{function.vendor:04x}"),
        "subsystem_device": _text(f"0x{hardware.subsystem_device:04x}"),
        "class": _text(hardware.pci_class),
        "revision": _text("0x00"),
        "irq": _text("0"),
        "numa_node": _text("0"),
        "modalias": _text(hardware.modalias(function)),
        "config": File(function.config_space(), writable=True),
        "resource": _text("\n".join(["0x" + "0" * 16 + " 0x" + "0" * 16 + " 0x" + "0" * 16] * 13)),
        "uevent": File(_uevent(card, function), writable=True),
        "driver_override": _text(function.driver_override or "(null)", writable=True),
    }
    if function.total_vfs:
        files["sriov_totalvfs"] = _text(str(function.total_vfs))
        files["sriov_vf_device"] = _text(f"{hardware.vf_device:x}")
        files["sriov_offset"] = _text(str(card.vf_offset(function.address)))
        files["sriov_stride"] = _text("1")
        files["sriov_vf_total_msix"] = _text(str(hardware.vf_msix_pool))
        files["sriov_numvfs"] = _text(str(function.num_vfs), writable=True)
        files["sriov_drivers_autoprobe"] = _text(str(int(function.autoprobe)), writable=True)
    elif hardware.vf_msix_pool:
        files["sriov_vf_msix_count"] = File(b"", writable=True)
    return files


def _uevent(card: Card, function: Function) -> bytes:
    driver = [f"DRIVER={function.driver}"] if function.driver else []
    subsystem = f"{function.vendor:04X}:{card.hardware.subsystem_device:04X}"
    lines = [
        *driver,
        "PCI_CLASS=20000",
        f"PCI_ID={function.vendor:04X}:{function.device:04X}",
        f"PCI_SUBSYS_ID={subsystem}",
        f"PCI_SLOT_NAME={function.address}",
        f"MODALIAS={card.hardware.modalias(function)}",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _add_netdevs(entries: Tree, card: Card, address: str) -> None:
    for netdev, phys_port_name in card.netdevs(address):
        path = f"{device_path(address)}/net/{netdev.name}"
        _link(entries, f"class/net/{netdev.name}", path)
        _link(entries, f"{path}/device", device_path(address))
        _link(entries, f"{path}/subsystem", "class/net")
        entries[f"{path}/ifindex"] = _text(str(netdev.ifindex))
        entries[f"{path}/type"] = _text("1")
        entries[f"{path}/address"] = _text("02:00:00:00:00:01")
        entries[f"{path}/uevent"] = _text(f"INTERFACE={netdev.name}\nIFINDEX={netdev.ifindex}", writable=True)
        if phys_port_name:
            entries[f"{path}/phys_port_name"] = _text(phys_port_name)
            entries[f"{path}/phys_switch_id"] = _text(card.switch_id)


def _text(content: str, *, writable: bool = False) -> File:
    return File(f"{content}\n".encode(), writable)


def _link(entries: Tree, path: str, target: str) -> None:
    entries[path] = Link(posixpath.relpath(target, posixpath.dirname(path)))
