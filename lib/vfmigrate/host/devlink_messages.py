# SPDX-License-Identifier: GPL-2.0-or-later
"""The requests of devlink as attribute tables, and the values that are read from answers.

Numbers and types are those of include/uapi/linux/devlink.h. The tables are our own: pyroute2's ends before
PORT_FUNCTION's capabilities, and a subclass of its message would inherit the parent's compiled table, which drops what
it does not know while the call succeeds. Answers are read without tables, because a card can have hundreds of ports,
and pyroute2 takes a third of a millisecond for each.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla

from vfmigrate.host.netlink import attribute_map, split_attributes
from vfmigrate.model.pci import PciAddress

_HEADER_BYTES = 16 + 4  # struct nlmsghdr and struct genlmsghdr

_DEV_NAME, _PORT_INDEX, _NETDEV_IFINDEX, _NETDEV_NAME, _ESWITCH_MODE = 2, 3, 6, 7, 25
_PORT_FLAVOUR, _PORT_NUMBER, _PCI_PF_NUMBER, _PCI_VF_NUMBER = 77, 78, 127, 128
_PORT_FUNCTION, _PORT_EXTERNAL, _CONTROLLER_NUMBER = 145, 149, 150
_DRIVER_NAME, _VERSION_FIXED, _VERSION_RUNNING, _VERSION_STORED = 98, 100, 101, 102
_VERSION_NAME, _VERSION_VALUE = 103, 104
_FN_HW_ADDR, _FN_CAPS = 1, 4
_BITFIELD32 = struct.Struct("=II")  # value and selector

_FLAVOURS: Mapping[Optional[int], str] = dict(
    enumerate(("physical", "cpu", "dsa", "pcipf", "pcivf", "virtual", "unused", "pcisf"))
)
#: the bit of `migratable` in a port function's capabilities
CAP_MIGRATABLE = 0x2


class _PortFunction(nla):  # type: ignore[misc]  # pyroute2 carries no types
    nla_flags = NLA_F_NESTED
    nla_map = (
        (1, "DEVLINK_PORT_FN_ATTR_HW_ADDR", "l2addr"),
        (4, "DEVLINK_PORT_FN_ATTR_CAPS", "bitfield32"),
    )

    class bitfield32(nla):  # type: ignore[misc]  # noqa: N801  (the name that nla_map looks up)
        # Not "value": pyroute2 keeps attributes of that name for itself.
        fields = (("bits", "I"), ("selector", "I"))


class DevlinkMessage(genlmsg):  # type: ignore[misc]  # pyroute2 carries no types
    """A request of devlink; only the attributes that vfmigrate sends."""

    prefix = "DEVLINK_ATTR_"
    nla_map = (
        (1, "DEVLINK_ATTR_BUS_NAME", "asciiz"),
        (2, "DEVLINK_ATTR_DEV_NAME", "asciiz"),
        (3, "DEVLINK_ATTR_PORT_INDEX", "uint32"),
        (25, "DEVLINK_ATTR_ESWITCH_MODE", "uint16"),
        (145, "DEVLINK_ATTR_PORT_FUNCTION", "port_function"),
    )
    port_function = _PortFunction


@dataclass(frozen=True)
class Port:
    """A devlink port; `hw_addr` and `migratable` belong to its port function.

    `migratable` is None where card, firmware or kernel do not offer the flag, `netdev` and `ifindex` while
    the port has no network device (in this network namespace).
    """

    index: int
    flavour: str
    vf: Optional[int]
    pf: Optional[int]
    controller: int
    external: bool
    ifindex: Optional[int]
    netdev: Optional[str]
    hw_addr: Optional[str]
    migratable: Optional[bool]
    #: of a physical port: its number on the card
    number: Optional[int] = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What the port is for; its index may go to another port when ports are created again."""
        return self.flavour, self.external, self.controller, self.pf, self.vf


@dataclass(frozen=True)
class CardVersions:
    """The versions of a card by name: fixed ones, running ones, and those stored in flash."""

    driver: str
    fixed: Mapping[str, str]
    running: Mapping[str, str]
    stored: Mapping[str, str]

    @property
    def psid(self) -> Optional[str]:
        """The PSID of the card; firmware for one PSID does not fit another."""
        return self.fixed.get("fw.psid")

    @property
    def firmware(self) -> Optional[str]:
        """The running firmware; after an update, the stored one runs only after a reset of the card."""
        return self.running.get("fw.version")

    @property
    def stored_firmware(self) -> Optional[str]:
        """The firmware in flash, which runs after the next reset of the card."""
        return self.stored.get("fw.version")


def device_of(answer: bytes) -> str:
    """The name of the device that an answer is about: the address of a PCI device."""
    return _text(_attributes(answer).get(_DEV_NAME)) or ""


def eswitch_mode_of(answer: bytes) -> int:
    """The number of the eswitch mode that an answer reports; -1 if it reports none."""
    number = _number(_attributes(answer).get(_ESWITCH_MODE))
    return number if number is not None else -1


def port_of(answer: bytes) -> Port:
    """The port that an answer describes."""
    found = _attributes(answer)
    function = attribute_map(found.get(_PORT_FUNCTION, b""))
    migratable = None
    if _FN_CAPS in function:
        bits, selector = _BITFIELD32.unpack_from(function[_FN_CAPS])
        if selector & CAP_MIGRATABLE:
            migratable = bool(bits & CAP_MIGRATABLE)
    flavour = _number(found.get(_PORT_FLAVOUR))
    return Port(
        index=_number(found.get(_PORT_INDEX)) or 0,
        flavour=_FLAVOURS.get(flavour, f"unknown flavour {flavour}"),
        vf=_number(found.get(_PCI_VF_NUMBER)),
        pf=_number(found.get(_PCI_PF_NUMBER)),
        controller=_number(found.get(_CONTROLLER_NUMBER)) or 0,
        external=bool(_number(found.get(_PORT_EXTERNAL))),
        ifindex=_number(found.get(_NETDEV_IFINDEX)),
        netdev=_text(found.get(_NETDEV_NAME)),
        hw_addr=function[_FN_HW_ADDR].hex(":") if _FN_HW_ADDR in function else None,
        migratable=migratable,
        number=_number(found.get(_PORT_NUMBER)),
    )


def versions_of(answer: bytes) -> CardVersions:
    """The versions that an answer lists."""
    driver = ""
    versions: dict[int, dict[str, str]] = {_VERSION_FIXED: {}, _VERSION_RUNNING: {}, _VERSION_STORED: {}}
    for number, content in split_attributes(answer[_HEADER_BYTES:]):
        if number == _DRIVER_NAME:
            driver = _text(content) or ""
        elif number in versions:
            version = attribute_map(content)
            versions[number][_text(version.get(_VERSION_NAME)) or ""] = (
                _text(version.get(_VERSION_VALUE)) or ""
            )
    return CardVersions(
        driver, versions[_VERSION_FIXED], versions[_VERSION_RUNNING], versions[_VERSION_STORED]
    )


def _attributes(answer: bytes) -> dict[int, bytes]:
    return attribute_map(answer[_HEADER_BYTES:])


def _number(content: Optional[bytes]) -> Optional[int]:
    return int.from_bytes(content, sys.byteorder) if content is not None else None


def _text(content: Optional[bytes]) -> Optional[str]:
    return content.rstrip(b"\0").decode(errors="replace") if content is not None else None


def local_vf_ports(pf: PciAddress, ports: Iterable[Port]) -> dict[int, Port]:
    """The ports of a PF's own VFs by VF number, among those of its devlink instance.

    An instance can show more: the VFs of another host (external ports: a DPU shows those of its host), and those of
    other PFs of this host, with the same VF numbers. A PF's number need not be that of its PCI function (some drivers
    number PFs by physical port), and the local controller need not be 0, so what distinguishes them counts only where
    ports differ in it. Empty if it cannot be decided which ports are the PF's.
    """
    groups: dict[tuple[int, Optional[int]], dict[int, Port]] = {}
    numbers = []
    for port in ports:
        if port.flavour == "physical" and port.number is not None:
            numbers.append(port.number)
        elif port.flavour == "pcivf" and port.vf is not None and not port.external:
            groups.setdefault((port.controller, port.pf), {})[port.vf] = port
    if len(groups) == 1:
        return groups.popitem()[1]
    controllers = {controller for controller, _ in groups}
    own = 0 if 0 in controllers else None
    if len(controllers) == 1:
        (own,) = controllers
    for number in (pf.function, *(numbers if len(numbers) == 1 else ())):
        if own is not None and (own, number) in groups:
            return groups[own, number]
    of_controller = [group for (controller, _), group in groups.items() if controller == own]
    return of_controller[0] if len(of_controller) == 1 else {}
