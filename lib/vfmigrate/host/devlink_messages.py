# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages of devlink as attribute tables, and the values that are read from answers.

Numbers and types are those of include/uapi/linux/devlink.h. The tables are our own: pyroute2's ends before
PORT_FUNCTION's capabilities, and a subclass of its message would inherit the parent's compiled table, which drops what
it does not know while the call succeeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla

from vfmigrate.model.pci import PciAddress

_FLAVOURS = ("physical", "cpu", "dsa", "pcipf", "pcivf", "virtual", "unused", "pcisf")
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


class _Version(nla):  # type: ignore[misc]  # pyroute2 carries no types
    nla_flags = NLA_F_NESTED
    nla_map = (
        (103, "DEVLINK_ATTR_INFO_VERSION_NAME", "asciiz"),
        (104, "DEVLINK_ATTR_INFO_VERSION_VALUE", "asciiz"),
    )


class DevlinkMessage(genlmsg):  # type: ignore[misc]  # pyroute2 carries no types
    """A request or an answer of devlink; only the attributes that vfmigrate needs."""

    prefix = "DEVLINK_ATTR_"
    nla_map = (
        (1, "DEVLINK_ATTR_BUS_NAME", "asciiz"),
        (2, "DEVLINK_ATTR_DEV_NAME", "asciiz"),
        (3, "DEVLINK_ATTR_PORT_INDEX", "uint32"),
        (6, "DEVLINK_ATTR_PORT_NETDEV_IFINDEX", "uint32"),
        (7, "DEVLINK_ATTR_PORT_NETDEV_NAME", "asciiz"),
        (25, "DEVLINK_ATTR_ESWITCH_MODE", "uint16"),
        (77, "DEVLINK_ATTR_PORT_FLAVOUR", "uint16"),
        (78, "DEVLINK_ATTR_PORT_NUMBER", "uint32"),
        (98, "DEVLINK_ATTR_INFO_DRIVER_NAME", "asciiz"),
        (100, "DEVLINK_ATTR_INFO_VERSION_FIXED", "version"),
        (101, "DEVLINK_ATTR_INFO_VERSION_RUNNING", "version"),
        (102, "DEVLINK_ATTR_INFO_VERSION_STORED", "version"),
        (127, "DEVLINK_ATTR_PORT_PCI_PF_NUMBER", "uint16"),
        (128, "DEVLINK_ATTR_PORT_PCI_VF_NUMBER", "uint16"),
        (145, "DEVLINK_ATTR_PORT_FUNCTION", "port_function"),
        (149, "DEVLINK_ATTR_PORT_EXTERNAL", "uint8"),
        (150, "DEVLINK_ATTR_PORT_CONTROLLER_NUMBER", "uint32"),
    )
    port_function = _PortFunction
    version = _Version


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


def decoded(message_class: Any, data: bytes) -> Any:
    """A message of pyroute2 from the kernel's bytes."""
    message = message_class(data)
    message.decode()
    return message


def port_of(message: Any) -> Port:
    """The port that an answer describes."""
    function = message.get_attr("DEVLINK_ATTR_PORT_FUNCTION")
    capabilities = function.get_attr("DEVLINK_PORT_FN_ATTR_CAPS") if function is not None else None
    migratable = None
    if capabilities is not None and capabilities["selector"] & CAP_MIGRATABLE:
        migratable = bool(capabilities["bits"] & CAP_MIGRATABLE)
    flavour = message.get_attr("DEVLINK_ATTR_PORT_FLAVOUR")
    known = flavour is not None and flavour < len(_FLAVOURS)
    return Port(
        index=message.get_attr("DEVLINK_ATTR_PORT_INDEX"),
        flavour=_FLAVOURS[flavour] if known else f"unknown flavour {flavour}",
        vf=message.get_attr("DEVLINK_ATTR_PORT_PCI_VF_NUMBER"),
        pf=message.get_attr("DEVLINK_ATTR_PORT_PCI_PF_NUMBER"),
        controller=message.get_attr("DEVLINK_ATTR_PORT_CONTROLLER_NUMBER") or 0,
        external=bool(message.get_attr("DEVLINK_ATTR_PORT_EXTERNAL")),
        ifindex=message.get_attr("DEVLINK_ATTR_PORT_NETDEV_IFINDEX"),
        netdev=message.get_attr("DEVLINK_ATTR_PORT_NETDEV_NAME"),
        hw_addr=function.get_attr("DEVLINK_PORT_FN_ATTR_HW_ADDR") if function is not None else None,
        migratable=migratable,
        number=message.get_attr("DEVLINK_ATTR_PORT_NUMBER"),
    )


def versions_of(message: Any) -> CardVersions:
    """The versions that an answer lists."""
    return CardVersions(
        driver=message.get_attr("DEVLINK_ATTR_INFO_DRIVER_NAME") or "",
        fixed=dict(_versions(message, "FIXED")),
        running=dict(_versions(message, "RUNNING")),
        stored=dict(_versions(message, "STORED")),
    )


def _versions(message: Any, kind: str) -> Iterator[tuple[str, str]]:
    for name, version in message["attrs"]:
        if name == f"DEVLINK_ATTR_INFO_VERSION_{kind}":
            yield (
                version.get_attr("DEVLINK_ATTR_INFO_VERSION_NAME"),
                version.get_attr("DEVLINK_ATTR_INFO_VERSION_VALUE"),
            )


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
