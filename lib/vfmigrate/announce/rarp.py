# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame by which switches learn that a guest's MAC address has moved, without the guest.

The frame and its repetition are those of QEMU for its own NICs (net/announce.c, migration parameters
announce-*), so that a network sees the same from a VF as from an emulated NIC. Sends nothing itself.
"""

from __future__ import annotations

import struct

from vfmigrate.model.mac import parse_mac

ETHERTYPE_RARP = 0x8035
MINIMUM_FRAME = 60

_ETHERTYPE_VLAN = 0x8100
_BROADCAST = b"\xff" * 6
_HARDWARE_ETHERNET = 1
_PROTOCOL_IPV4 = 0x0800
_OPCODE_REQUEST_REVERSE = 3


def delays(*, initial: float, step: float, maximum: float, rounds: int) -> tuple[float, ...]:
    """The pause before each round, in seconds: none before the first, then `initial` growing by `step`."""
    return (0.0, *(min(initial + step * index, maximum) for index in range(rounds - 1)))


ROUNDS = delays(initial=0.050, step=0.100, maximum=0.550, rounds=5)
"""Seconds to wait before each round, by QEMU's defaults: rounds at 0, 50, 200, 450 and 800 ms."""


def rarp(mac: str, vlan: int = 0) -> bytes:
    """The announcement QEMU sends: a broadcast in which `mac` asks for its own address (RFC 903).

    Untagged, or with the 802.1Q tag of a VLAN. Switches learn from its source address; hosts have nothing to answer.
    Raises InputError for no address.
    """
    address = bytes.fromhex(parse_mac(mac).replace(":", ""))
    tag = struct.pack("!HH", _ETHERTYPE_VLAN, vlan) if vlan else b""
    ethernet = _BROADCAST + address + tag + struct.pack("!H", ETHERTYPE_RARP)
    fixed = struct.pack("!HHBBH", _HARDWARE_ETHERNET, _PROTOCOL_IPV4, 6, 4, _OPCODE_REQUEST_REVERSE)
    no_ip = bytes(4)
    return (ethernet + fixed + address + no_ip + address + no_ip).ljust(MINIMUM_FRAME + len(tag), b"\0")
