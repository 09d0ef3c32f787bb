# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's network devices in sysfs: which is virtio, which is a VF, and which are joined already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from vfmigrate_guest.fault import Fault

SYSFS = Path("/sys/class/net")

# Bit 62 of a virtio network device's features, VIRTIO_NET_F_STANDBY (virtio 1.1, 5.1.3): the kernel's net_failover
# joins it with the device that has the same MAC.
_STANDBY_FEATURE = 62


@dataclass(frozen=True)
class Nic:
    """One network device with hardware behind it."""

    name: str
    mac: str
    #: kernel driver, such as virtio_net; None if unknown
    driver: Optional[str]
    #: a virtio device that is the standby of a net_failover device
    standby: bool = False
    #: the device that this one is a port of
    master: Optional[str] = None

    @property
    def virtio(self) -> bool:
        """Whether the hypervisor emulates it."""
        return self.driver == "virtio_net"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> Optional[str]:
    try:
        return path.readlink().name
    except (OSError, AttributeError):
        return None


def _nic(device: Path) -> Nic:
    driver = _link(device / "device" / "driver")
    features = _text(device / "device" / "features")
    return Nic(
        name=device.name,
        # A port of a bond can have the bond's MAC; bonding keeps its own in perm_hwaddr.
        mac=_text(device / "bonding_slave" / "perm_hwaddr") or _text(device / "address"),
        driver=driver,
        standby=driver == "virtio_net" and features[_STANDBY_FEATURE : _STANDBY_FEATURE + 1] == "1",
        master=_link(device / "master"),
    )


def nics(root: Path = SYSFS) -> list[Nic]:
    """The network devices with hardware, by name: not loopback, bonds, bridges and VLANs."""
    return [_nic(device) for device in sorted(root.iterdir()) if (device / "device").exists()]


def find(present: Sequence[Nic], wanted: str, root: Path = SYSFS) -> Nic:
    """The device with this name or MAC, with hardware or not. Raises Fault if there is none, or several."""
    found = [nic for nic in present if wanted == nic.name or wanted.lower() == nic.mac]
    if not found and "/" not in wanted and (root / wanted).is_dir():
        found = [_nic(root / wanted)]
    if len(found) != 1:
        many = "several network devices" if found else "no network device"
        names = ", ".join(f"{nic.name} ({nic.mac})" for nic in present)
        raise Fault(f"this guest has {many} '{wanted}'", f"its network devices: {names or 'none'}")
    return found[0]


def choose(present: Sequence[Nic]) -> tuple[Nic, Nic]:
    """VF and virtio device of a guest that has one of each. Raises Fault for any other guest."""
    virtio = [nic for nic in present if nic.virtio]
    others = [nic for nic in present if not nic.virtio]
    if len(virtio) != 1 or len(others) != 1:
        names = ", ".join(f"{nic.name} ({nic.driver})" for nic in present)
        raise Fault(
            f"this guest does not have exactly one VF and one virtio device: {names or 'it has none'}",
            "name them with --vf and --standby",
        )
    return others[0], virtio[0]


def advice(present: Sequence[Nic]) -> str:
    """Which of net_failover and a bond this guest needs, in a sentence."""
    if any(nic.standby for nic in present):
        return "the kernel's net_failover joins the VF and its standby; no bond is needed"
    if not any(nic.virtio for nic in present):
        return "there is no virtio device for the bond; add one to the guest"
    if all(nic.virtio for nic in present):
        return "there is no VF now; creating a bond requires one"
    return "VF and virtio device are not joined; run: vfmigrate-guest bond"
