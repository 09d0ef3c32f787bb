# SPDX-License-Identifier: GPL-2.0-or-later
"""Network devices (rtnetlink): look one up, bring it up or down, set its MTU, list its addresses and routes.

Devices are identified by interface index, because udev renames them after they appear. Message formats:
rtnetlink(7) and include/uapi/linux/if_link.h, if_addr.h and rtnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vfmigrate.errors import HostError
from vfmigrate.host.netlink import NETLINK_ROUTE, KernelRefusalError, NetlinkSocket, attribute_map

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_GETADDR = 22
_RTM_GETROUTE = 26
_IFF_UP = 0x1
_IFNAMSIZ = 16

_HEADER_BYTES = 16  # struct nlmsghdr
_IFINFOMSG = struct.Struct("=4xiI")  # of struct ifinfomsg: index and flags
_CHANGE_BYTES = 4  # its last field, which answers do not use
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_STATS64 = (
    1,
    3,
    4,
    5,
    10,
    18,
    23,
)
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_VLAN_ID = 1  # in the data of kind "vlan"
_VLAN = "vlan"
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: they are more than half of a list
_STATS64 = struct.Struct("=QQ")  # the first two of struct rtnl_link_stats64: packets received and sent

_IFADDRMSG = struct.Struct("=BBBBI")  # family, length of prefix, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, length of prefix, -, -, table, protocol, scope, type, flags
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH = 1, 4, 9
_NEXTHOP = struct.Struct("=HBBi")  # length, flags, weight, index of the device
_RTN_UNICAST, _RTPROT_KERNEL, _RTM_F_CLONED = 1, 2, 0x200

_REMEDIES = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.ENODEV: "it is gone, or in another network namespace: see 'ip link'",
}


@dataclass(frozen=True)
class Link:
    """A network device: interface index, name, administrative state, MTU in bytes, MAC address.

    `master` is the index of the bond, bridge or other device to which it is enslaved. `kind` is that of a virtual
    device ("bond", "vlan"). A VLAN device has the index of the device that it is on in `lower`, and its VLAN in `vlan`.
    """

    index: int
    name: str
    up: bool
    mtu: int
    address: str
    master: Optional[int] = None
    kind: Optional[str] = None
    lower: Optional[int] = None
    vlan: Optional[int] = None


@dataclass(frozen=True)
class Traffic:
    """Frames that a network device has received and sent since it exists."""

    rx: int
    tx: int


class Links:
    """The network devices of the namespace of the thread that makes this; thread-safe.

    Every method raises HostError with the kernel's own text when it refuses. `timeout` is in seconds; `sock` hands
    in a netlink socket, of another namespace for example.
    """

    def __init__(self, *, timeout: float = 30.0, sock: Optional[socket.socket] = None) -> None:
        self._netlink = NetlinkSocket(NETLINK_ROUTE, timeout=timeout, sock=sock)

    def link(self, ifindex: int) -> Link:
        """Look up a device by its interface index; HostError when there is none."""
        try:
            return self._get(ifindex)
        except KernelRefusalError as refusal:
            raise _host_error(f"look up interface {ifindex}", refusal) from None

    def all(self) -> dict[int, Link]:
        """Every device by its interface index; those that come or go meanwhile may be missing."""
        message = ifinfmsg()
        message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATISTICS)]
        try:
            answers = self._netlink.ask(message, _RTM_GETLINK, dump=True, consistent=False)
        except KernelRefusalError as refusal:
            raise _host_error("list the interfaces", refusal) from None
        links = map(_link, answers)
        return {link.index: link for link in links}

    def vlan_devices(self, ifindex: int) -> list[Link]:
        """The VLAN devices on a device, by their VLANs."""
        found = [link for link in self.all().values() if link.lower == ifindex]
        return sorted(found, key=lambda link: (link.vlan or 0, link.name))

    def find(self, name: str) -> Optional[Link]:
        """Look up a device by its name; None when there is none."""
        if not 0 < len(name.encode()) < _IFNAMSIZ:
            return None
        try:
            return self._get(0, [("IFLA_IFNAME", name)])
        except KernelRefusalError as refusal:
            if refusal.number == errno.ENODEV:
                return None
            raise _host_error(f"look up interface {name}", refusal) from None

    def traffic(self, ifindex: int) -> Traffic:
        """What went through a device; HostError when there is none."""
        try:
            answer = self._answer(ifindex)
        except KernelRefusalError as refusal:
            raise _host_error(f"look up interface {ifindex}", refusal) from None
        return Traffic(*_STATS64.unpack_from(_found(answer).get(_IFLA_STATS64, bytes(_STATS64.size))))

    def set_up(self, ifindex: int, up: bool = True) -> None:
        """Bring a device up, or down. A representor's state drives the link that the VF's guest sees."""
        purpose = f"bring interface {ifindex} {'up' if up else 'down'}"
        self._change(ifindex, purpose, flags=_IFF_UP if up else 0, mask=_IFF_UP)

    def set_mtu(self, ifindex: int, mtu: int) -> None:
        """Set a device's MTU, in bytes."""
        self._change(ifindex, f"set the MTU of interface {ifindex} to {mtu}", [("IFLA_MTU", mtu)])

    def addresses(self) -> dict[int, list[str]]:
        """The IP addresses of all devices with their prefix lengths, by the devices' indexes.

        Without the IPv6 link-local address that the kernel gives each device that is up.
        """
        found: dict[int, list[str]] = {}
        for answer in self._list(ifaddrmsg(), _RTM_GETADDR, "list the addresses"):
            family, prefix, _, _, index = _IFADDRMSG.unpack_from(answer, _HEADER_BYTES)
            if family not in (socket.AF_INET, socket.AF_INET6):
                continue
            attributes = attribute_map(answer[_HEADER_BYTES + _IFADDRMSG.size :])
            # On a point-to-point link, ADDRESS is that of the peer.
            packed = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
            address = ipaddress.ip_address(packed)
            if not (family == socket.AF_INET6 and address.is_link_local):
                found.setdefault(index, []).append(f"{address}/{prefix}")
        return found

    def routes(self, ifindex: int) -> list[str]:
        """The destinations that are routed through a device, without those that its addresses bring along."""
        found = []
        answers: list[bytes] = []
        for each in (socket.AF_INET, socket.AF_INET6):
            message = rtmsg()
            message["family"] = each
            answers += self._list(message, _RTM_GETROUTE, "list the routes")
        for answer in answers:
            family, prefix, _, _, _, protocol, _, kind, flags = _RTMSG.unpack_from(answer, _HEADER_BYTES)
            attributes = attribute_map(answer[_HEADER_BYTES + _RTMSG.size :])
            if ifindex not in _devices(attributes) or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if kind == _RTN_UNICAST and protocol != _RTPROT_KERNEL and not flags & _RTM_F_CLONED:
                packed = attributes.get(_RTA_DST)
                found.append(f"{ipaddress.ip_address(packed)}/{prefix}" if packed else "default")
        return found

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def _get(self, ifindex: int, attributes: Sequence[tuple[str, object]] = ()) -> Link:
        return _link(self._answer(ifindex, attributes))

    def _answer(self, ifindex: int, attributes: Sequence[tuple[str, object]] = ()) -> bytes:
        message = ifinfmsg()
        message["index"] = ifindex
        message["attrs"] = list(attributes)
        (answer,) = self._netlink.ask(message, _RTM_GETLINK)
        return answer

    def _list(self, message: Any, message_type: int, purpose: str) -> list[bytes]:
        try:
            return self._netlink.ask(message, message_type, dump=True)
        except KernelRefusalError as refusal:
            raise _host_error(purpose, refusal) from None

    def _change(
        self,
        ifindex: int,
        purpose: str,
        attributes: Sequence[tuple[str, object]] = (),
        *,
        flags: int = 0,
        mask: int = 0,
    ) -> None:
        message = ifinfmsg()
        message["index"] = ifindex
        message["flags"] = flags
        message["change"] = mask
        message["attrs"] = list(attributes)
        try:
            self._netlink.ask(message, _RTM_NEWLINK)
        except KernelRefusalError as refusal:
            raise _host_error(purpose, refusal) from None


def _devices(attributes: Mapping[int, bytes]) -> Iterator[int]:
    """The indexes of the devices through which a route goes."""
    if _RTA_OIF in attributes:
        yield int.from_bytes(attributes[_RTA_OIF], sys.byteorder)
    nexthops = attributes.get(_RTA_MULTIPATH, b"")
    offset = 0
    while offset + _NEXTHOP.size <= len(nexthops):
        length, _, _, index = _NEXTHOP.unpack_from(nexthops, offset)
        if length < _NEXTHOP.size:
            return
        yield index
        offset += length + 3 & ~3


def _link(answer: bytes) -> Link:
    """Decode the few attributes that are needed; all fifty would take ten times as long, for each representor."""
    index, flags = _IFINFOMSG.unpack_from(answer, _HEADER_BYTES)
    found = _found(answer)
    info = attribute_map(found.get(_IFLA_LINKINFO, b""))
    kind = info[_IFLA_INFO_KIND].rstrip(b"\0").decode(errors="replace") if _IFLA_INFO_KIND in info else None
    vlan = attribute_map(info.get(_IFLA_INFO_DATA, b"")).get(_IFLA_VLAN_ID) if kind == _VLAN else None
    # of other kinds, IFLA_LINK is another relation: a veth has its peer in it
    lower = found.get(_IFLA_LINK) if kind == _VLAN else None
    return Link(
        index=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
        up=bool(flags & _IFF_UP),
        mtu=int.from_bytes(found[_IFLA_MTU], sys.byteorder),
        address=found.get(_IFLA_ADDRESS, b"").hex(":"),
        master=_number(found.get(_IFLA_MASTER)),
        kind=kind,
        lower=_number(lower),
        vlan=_number(vlan),
    )


def _number(value: Optional[bytes]) -> Optional[int]:
    return int.from_bytes(value, sys.byteorder) if value is not None else None


def _found(answer: bytes) -> dict[int, bytes]:
    return attribute_map(answer[_HEADER_BYTES + _IFINFOMSG.size + _CHANGE_BYTES :])


def _host_error(purpose: str, refusal: KernelRefusalError) -> HostError:
    return HostError(f"cannot {purpose}: {refusal.text}", _REMEDIES.get(refusal.number, ""))
