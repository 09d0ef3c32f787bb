# SPDX-License-Identifier: GPL-2.0-or-later
"""The VF part of rtnetlink for a fake card; `rtnl_shim.so`, preloaded into libvirt, sends its requests here.

A connection of a Unix SEQPACKET socket carries one request, a whole netlink message: RTM_GETLINK of the PF's network
device is answered with its IFLA_VFINFO_LIST, RTM_SETLINK with one byte when the card takes the change; no answer
means that there is nothing to add, or that the change is refused.

It follows mlx5 in switchdev mode (en_rep.c): the MAC is devlink's `hw_addr`, and a VLAN other than 0 is refused. In
legacy mode the card shows no VFs here.

Numbers: include/uapi/linux/rtnetlink.h, if_link.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.card import Card

_RTM_GETLINK, _RTM_SETLINK = 18, 19
_IFNAME, _VFINFO_LIST, _EXT_MASK = 3, 22, 29
_FILTER_VF = 1
_VF_INFO, _VF_MAC, _VF_VLAN = 1, 1, 2
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")


class VfNetlink:
    """Answers for the VFs of one PF whose network device is `netdev`."""

    def __init__(self, card: Card, pf: str, netdev: str) -> None:
        self._card = card
        self._pf = pf
        self._netdev = netdev

    def serve(self, path: Path) -> None:
        """Answer requests at a socket, one after the other, for ever."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.send(self.answer(connection.recv(1 << 16)))

    def answer(self, message: bytes) -> bytes:
        """Answer one netlink message; the answer can be empty. Raises OSError to refuse."""
        kind = _HEADER.unpack_from(message)[1]
        _, _, index, _, _ = _LINK.unpack_from(message, _HEADER.size)
        attributes = dict(_attributes(message[_HEADER.size + _LINK.size :]))
        name = attributes.get(_IFNAME, b"").rstrip(b"\0").decode()
        if self._netdev not in {name, socket.if_indextoname(index) if index > 0 else name}:
            return b""
        if kind == _RTM_SETLINK:
            for _, vf_info in _attributes(attributes[_VFINFO_LIST]):
                self._change(vf_info)
            return b"\1"
        (mask,) = struct.unpack("=I", attributes[_EXT_MASK])
        return self._list() if mask & _FILTER_VF else b""

    def _change(self, vf_info: bytes) -> None:
        for kind, payload in _attributes(vf_info):
            vf, value = struct.unpack_from("=II", payload)
            ports = {port.vf: port.index for port in self._card.ports(self._pf)}
            if kind == _VF_MAC:
                self._card.set_port_function(self._pf, ports[vf], hw_addr=payload[4:10].hex(":"))
            elif kind != _VF_VLAN or value != 0:
                raise OSError

    def _list(self) -> bytes:
        told = b""
        for port in self._card.ports(self._pf):
            if port.vf is not None and port.hw_addr is not None:
                mac = bytes.fromhex(port.hw_addr.replace(":", ""))
                told += _attribute(
                    _VF_INFO,
                    _attribute(_VF_MAC, struct.pack("=I32s", port.vf, mac))
                    + _attribute(_VF_VLAN, struct.pack("=III", port.vf, 0, 0)),
                )
        return _attribute(_VFINFO_LIST, told)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read attributes: numbers without their flags, and contents."""
    offset = 0
    while offset + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, offset)
        yield number & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, length + 3 & ~3)


def _attribute(number: int, content: bytes) -> bytes:
    return struct.pack("=HH", len(content) + 4, number) + content + bytes(-len(content) % 4)
