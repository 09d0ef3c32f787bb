# SPDX-License-Identifier: GPL-2.0-or-later
"""A pool: VFs that are equal for a guest, and how they are connected. Its fields are the keys of [pool NAME]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from vfmigrate.config import setting
from vfmigrate.config.setting import key as _key
from vfmigrate.model.pci import PciAddress

#: the value of a key that disables something
NONE = "none"
#: the value of `unmarked` for a pool whose VFs are given to interfaces that no metadata mentions
TAKE = "take"
#: the value of `uplink_in_use` for an uplink that may be plugged although the host itself uses it
PLUG = "plug"
#: Open vSwitch's VLAN of frames without a tag
UNTAGGED = 0
#: the value of `uplink` for the physical port of each PF; no network device can have this name
UPLINK_OF_PF = ""


@dataclass(frozen=True)
class Pool:
    """Physical functions whose VFs reach one network, and how their ports are plugged."""

    name: str
    pfs: tuple[PciAddress, ...] = field(
        metadata=_key(
            "pf",
            setting.PCI_ADDRESSES,
            "The physical functions whose VFs make up the pool. A physical function belongs to one pool.",
        )
    )
    bridge: str = field(
        metadata=_key(
            "bridge", setting.BRIDGE, "The Open vSwitch bridge into which the VFs' representors are plugged."
        )
    )
    vlan: Optional[int] = field(
        default=None,
        metadata=_key(
            "vlan",
            setting.number(1, setting.MAX_VLAN),
            "The VLAN of an interface whose metadata names none.",
            otherwise="a trunk of the pool's vlans; without any, no VLAN but untagged frames",
        ),
    )
    vlans: frozenset[int] = field(
        default=frozenset(),
        metadata=_key(
            "vlans",
            setting.VLANS,
            "The VLANs that a guest's metadata can name; the VLAN of the key vlan is always allowed. "
            "all allows every VLAN, and gives an interface whose metadata names none a trunk of all of them.",
            otherwise="none",
        ),
    )
    mtu: Optional[int] = field(
        default=None,
        metadata=_key(
            "mtu",
            setting.number(68, 65535),
            "The MTU of the representors, in bytes.",
            otherwise="that of the uplink; with uplink = none it is not changed",
        ),
    )
    announce: bool = field(
        default=True,
        metadata=_key(
            "announce",
            setting.FLAG,
            "Whether to announce the MAC of a guest to the network when it resumes on this host after a migration.",
        ),
    )
    vfs: Optional[int] = field(
        default=None,
        metadata=_key(
            "vfs",
            setting.number(1, 4095),
            "How many VFs provisioning creates on each physical function of the pool. "
            "The number is never changed while a guest has one of them.",
            otherwise="not changed",
        ),
    )
    msix: Optional[int] = field(
        default=None,
        metadata=_key(
            "msix",
            setting.number(1, 2048),
            "MSI-X vectors of each VF (the kernel's sriov_vf_msix_count). "
            "A guest can migrate only between VFs with the same number. Without this key the number depends on the "
            "number of VFs.",
            otherwise="chosen by the card",
        ),
    )
    uplink: str = field(
        default=UPLINK_OF_PF,
        metadata=_key(
            "uplink",
            setting.NETDEV,
            "The network device by which the bridge reaches the network, such as a bond of the physical functions. "
            "Provisioning brings it up and plugs it into the bridge; with none, do that yourself.",
            otherwise="the physical port of each physical function",
        ),
    )
    uplink_in_use: str = field(
        default="refuse",
        metadata=_key(
            "uplink_in_use",
            setting.choice("refuse", PLUG),
            "What provisioning does with an uplink that is not on the bridge yet and has IP addresses or routes, which "
            "stop working once it is. refuse: leave everything as it is, and name them. plug: plug it all the same.",
        ),
    )
    network: Optional[str] = field(
        default=None,
        metadata=_key(
            "network",
            setting.NETWORK,
            "The libvirt network (forward mode hostdev) from which guests get VFs of the pool. vfmigrate defines and "
            "starts it. Guests name the network instead of the address of a VF, so that their XML is the same on every "
            "host. With none, no network is defined.",
            otherwise="vfmigrate- followed by the name of the pool",
        ),
    )
    firmware_min: Optional[tuple[int, ...]] = field(
        default=None,
        metadata=_key(
            "firmware_min",
            setting.VERSION,
            "The oldest firmware that a card of the pool may run. Where the first number of a version is that of a "
            "family of cards, the key applies to cards of that family only.",
            otherwise="the known minimum for the family of the card",
        ),
    )
    restart_openvswitch: bool = field(
        default=False,
        metadata=_key(
            "restart_openvswitch",
            setting.FLAG,
            "Whether provisioning may restart ovs-vswitchd after it has enabled hardware offload, which takes effect "
            "only then. It never does so while a guest on this host has a VF.",
        ),
    )
    representor_names: str = field(
        default="kernel",
        metadata=_key(
            "representor_names",
            setting.choice("kernel", "stable"),
            "Who names the representors of VFs. kernel: the kernel and udev. stable: vfmigrate, from PCI bus, slot, "
            "physical function and VF, such as re100pf0vf12; a name has at most 15 characters.",
        ),
    )

    free_vfs: str = field(
        default="ready",
        metadata=_key(
            "free_vfs",
            setting.choice("ready", "host"),
            "The driver of VFs that no guest has. ready: no host driver, so that the VF can receive device state. "
            "host: the host's driver. oVirt's engine needs host to assign VFs by passthrough profiles (failover and "
            "replug), because it takes a VF without a network device for one in use. A VF whose network device has an "
            "address, or is a port of a bond or bridge, is in use with either.",
        ),
    )

    unmarked: str = field(
        default="ignore",
        metadata=_key(
            "unmarked",
            setting.choice("ignore", TAKE),
            "What to do when a guest arrives from another host, or is restored from a file, with an interface of type "
            "hostdev that its metadata does not mention, for example from a host without vfmigrate. ignore: keep the "
            "address of the VF in the guest's XML. take: give the guest a VF of this pool; the card of the source is "
            "then unknown, and cannot be compared. Only one pool can have take. A plain hostdev is always ignored.",
        ),
    )
    max_migrating: Optional[int] = field(
        default=None,
        metadata=_key(
            "max_migrating",
            setting.number(1, 4095),
            "How many VFs of one physical function may migrate at the same time. One more guest waits for as long as "
            "migrating_wait in the section daemon says, and is then refused. A guest with more VFs than that on one "
            "physical function is refused at once.",
            otherwise="the known limit of the card, or 4",
        ),
    )

    #: the file with the key pf, for error messages about the PFs
    origin: str = field(default="", compare=False)

    @property
    def libvirt_network(self) -> Optional[str]:
        """The name of the pool's libvirt network; None when no network is to be defined."""
        if self.network == NONE:
            return None
        return self.network or f"vfmigrate-{self.name}"

    @property
    def default_trunks(self) -> tuple[int, ...]:
        """The VLANs on the trunk of an interface that names none, in a pool without a tag of its own.

        VLAN 0 is Open vSwitch's name for frames without a tag; no VLANs at all would be a trunk of all of them, which
        must be asked for.
        """
        if self.vlans == setting.ALL_VLANS:
            return ()
        return tuple(sorted(self.vlans)) or (UNTAGGED,)

    def allows_vlan(self, vlan: int) -> bool:
        """Whether metadata can name `vlan` for an interface of this pool."""
        return vlan == self.vlan or vlan in self.vlans
