# SPDX-License-Identifier: GPL-2.0-or-later
"""Which devices of a guest migrate, as libvirt and QEMU treat them, besides VFs and disks of files. Pure.

Every kind that libvirt's schema allows is judged: it migrates, it cannot, or only the administrator can know. What is
not in the table is unknown, and is said to be. Rules: qemuMigrationSrcIsAllowed in libvirt's qemu_migration.c, and the
migration blockers of QEMU's devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Callable, Optional

from lxml import etree


class Verdict(Enum):
    """Whether a device migrates."""

    MIGRATES = "migrates"
    #: it can, if something holds that cannot be seen from here
    UNKNOWN = "unknown"
    BLOCKS = "blocks"


@dataclass(frozen=True)
class DeviceFinding:
    """A device that does not simply migrate."""

    #: what it is, such as "TPM of type passthrough"
    name: str
    blocks: bool
    #: words that follow its name
    why: str


#: verdict, and words that follow the device's name
_Judgement = tuple[Verdict, str]
_FINE: _Judgement = (Verdict.MIGRATES, "")
_SAME = "is one of this host: the other host must have it too"
_KEPT = "uses a device of this host, which cannot migrate"
_FILE = "uses a file of this host: the other host must have it too"
_NEW = "is of a kind that vfmigrate does not know"

# By the value of `type`, or of what `_KEYS` names.
_BY_KIND: dict[str, dict[str, _Judgement]] = {
    # The device is looked for on the destination, by the same ids or address.
    "hostdev": {
        "pci": _FINE,  # judged as a VF
        "usb": (Verdict.UNKNOWN, _SAME),
        "scsi": (Verdict.BLOCKS, _KEPT),
        "scsi_host": (Verdict.BLOCKS, _KEPT),
        "mdev": (Verdict.UNKNOWN, "migrates only if its driver can do that on both hosts"),
        "storage": (Verdict.BLOCKS, _KEPT),
        "misc": (Verdict.BLOCKS, _KEPT),
        "net": (Verdict.BLOCKS, _KEPT),
    },
    "disk": {
        "file": _FINE,  # these are looked at on both hosts
        "block": _FINE,
        "network": _FINE,
        "volume": (
            Verdict.UNKNOWN,
            "is in a storage pool, which the other host must have with the same volume",
        ),
        "dir": (Verdict.UNKNOWN, "is a directory of this host: the other host must have it too"),
        "nvme": (Verdict.BLOCKS, _KEPT),
        "vhostuser": (Verdict.UNKNOWN, "needs the same server on the other host"),
        "vhostvdpa": (Verdict.UNKNOWN, "migrates only if its driver can do that on both hosts"),
    },
    "interface": {
        "bridge": _FINE,  # their networks and bridges are looked for
        "network": _FINE,
        "hostdev": _FINE,
        "user": _FINE,
        "null": _FINE,
        "mcast": _FINE,
        "server": _FINE,
        "client": _FINE,
        "udp": _FINE,
        "internal": (Verdict.UNKNOWN, _SAME),
        "ethernet": (Verdict.UNKNOWN, "needs its network device on the other host"),
        "direct": (Verdict.UNKNOWN, "needs the same network device on the other host"),
        "vhostuser": (Verdict.UNKNOWN, "needs the same server on the other host"),
        "vdpa": (Verdict.UNKNOWN, "migrates only if its driver can do that on both hosts"),
        "vds": (Verdict.UNKNOWN, _SAME),
    },
    "filesystem": {
        "9p": (Verdict.BLOCKS, "cannot migrate while the guest has it mounted"),
        "virtiofs": (
            Verdict.UNKNOWN,
            "migrates only with a libvirt and a virtiofsd on both hosts that can do that",
        ),
    },
    "tpm": {
        "emulator": _FINE,
        "passthrough": (Verdict.BLOCKS, "keeps its keys in the TPM of this host"),
        "external": (Verdict.UNKNOWN, "needs the same server on the other host"),
    },
    "smartcard": {
        "host": (Verdict.BLOCKS, _KEPT),
        "host-certificates": (Verdict.UNKNOWN, _FILE),
        "passthrough": _FINE,
    },
    "shmem": {
        "master": (Verdict.UNKNOWN, "migrates, and the guests that share it stay behind"),
        "": (Verdict.BLOCKS, "can migrate only with role='master'"),
    },
    "graphics": {
        "vnc": _FINE,
        "spice": _FINE,
        "rdp": _FINE,
        "dbus": _FINE,
        "desktop": (Verdict.UNKNOWN, "is on the screen of this host"),
        "sdl": (Verdict.UNKNOWN, "is on the screen of this host"),
        "egl-headless": (Verdict.UNKNOWN, "needs a graphics card on the other host"),
    },
    "video": {"": _FINE, "accelerated": (Verdict.BLOCKS, "cannot migrate with acceleration of 3D")},
    "rng": {
        "random": _FINE,
        "builtin": _FINE,
        "egd": (Verdict.UNKNOWN, "needs the same server on the other host"),
    },
    "memory": {
        "dimm": _FINE,
        "virtio-mem": _FINE,
        "nvdimm": (Verdict.UNKNOWN, _FILE),
        "virtio-pmem": (Verdict.UNKNOWN, _FILE),
        "sgx-epc": (Verdict.BLOCKS, "is memory of this host's processor, which cannot migrate"),
    },
    "crypto": {"builtin": _FINE, "lkcf": (Verdict.UNKNOWN, _SAME)},
    "input": {
        "tablet": _FINE,
        "mouse": _FINE,
        "keyboard": _FINE,
        "passthrough": (Verdict.UNKNOWN, _SAME),
        "evdev": (Verdict.UNKNOWN, _SAME),
    },
}
_CHARACTER: dict[str, _Judgement] = {
    "": _FINE,  # a pty
    "pty": _FINE,
    "file": _FINE,
    "unix": _FINE,
    "tcp": _FINE,
    "udp": _FINE,
    "null": _FINE,
    "vc": _FINE,
    "stdio": _FINE,
    "spicevmc": _FINE,
    "spiceport": _FINE,
    "nmdm": _FINE,
    "dbus": _FINE,
    "qemu-vdagent": _FINE,
    "pipe": (Verdict.UNKNOWN, _SAME),
    "dev": (Verdict.UNKNOWN, _SAME),
}
for _kind in ("console", "parallel", "serial", "channel"):
    _BY_KIND[_kind] = _CHARACTER
_BY_KIND["redirdev"] = {**_CHARACTER, "tcp": (Verdict.UNKNOWN, "needs the same server on the other host")}
#: they migrate whatever their kind is; a virtual IOMMU is judged with the VFs
_ALWAYS = frozenset(
    (
        "emulator",
        "controller",
        "lease",
        "sound",
        "audio",
        "hub",
        "redirfilter",
        "watchdog",
        "memballoon",
        "nvram",
        "panic",
        "iommu",
        "vsock",
        "pstore",
    )
)


def _type(device: etree._Element) -> str:
    return device.get("type", "")


def _shmem(device: etree._Element) -> str:
    return "master" if device.get("role") == "master" else ""


def _filesystem(device: etree._Element) -> str:
    driver = device.find("driver")
    return "virtiofs" if driver is not None and driver.get("type") == "virtiofs" else "9p"


def _video(device: etree._Element) -> str:
    acceleration = device.find("model/acceleration")
    return "accelerated" if acceleration is not None and acceleration.get("accel3d") == "yes" else ""


def _child(path: str, key: str) -> Callable[[etree._Element], str]:
    def kind(device: etree._Element) -> str:
        element = device.find(path)
        return (element.get(key) or "") if element is not None else ""

    return kind


# What tells the kinds of an element apart, where that is not its attribute `type`.
_KEYS: dict[str, Callable[[etree._Element], str]] = {
    "shmem": _shmem,
    "filesystem": _filesystem,
    "video": _video,
    "tpm": _child("backend", "type"),
    "rng": _child("backend", "model"),
    "crypto": _child("backend", "model"),
    "smartcard": lambda device: device.get("mode", ""),
    "memory": lambda device: device.get("model", ""),
}


def judge(device: etree._Element) -> tuple[Verdict, Optional[DeviceFinding]]:
    """Whether a device migrates, and what there is to say if it does not simply do so."""
    tag = str(device.tag)
    kinds = _BY_KIND.get(tag)
    if kinds is None:
        if tag in _ALWAYS:
            return Verdict.MIGRATES, None
        return Verdict.UNKNOWN, DeviceFinding(f"<{tag[:40]}>", False, _NEW)
    kind = _KEYS.get(tag, _type)(device)
    if tag == "disk" and device.find("transient") is not None:
        return Verdict.BLOCKS, DeviceFinding(
            _name(device, tag, kind), True, "is transient, which cannot migrate"
        )
    verdict, why = kinds.get(kind, (Verdict.UNKNOWN, _NEW))
    if tag == "disk" and verdict is not Verdict.MIGRATES and device.find("source") is None:
        verdict = Verdict.MIGRATES  # a drive that is empty
    if verdict is Verdict.MIGRATES:
        return verdict, None
    return verdict, DeviceFinding(_name(device, tag, kind), verdict is Verdict.BLOCKS, why)


def _name(device: etree._Element, tag: str, kind: str) -> str:
    target = device.find("target")
    dev = target.get("dev") or target.get("dir") if target is not None else None
    words = f"{tag} of type {kind[:40]}" if kind else tag
    return f"{words} ({dev[:100]})" if dev else words


def findings(devices: Optional[etree._Element]) -> Iterator[DeviceFinding]:
    """What there is to say of the children of a <devices>."""
    for device in devices if devices is not None else ():
        found = judge(device)[1] if isinstance(device.tag, str) else None
        if found is not None:
            yield found
