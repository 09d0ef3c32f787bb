# SPDX-License-Identifier: GPL-2.0-or-later
"""devlink: eswitch mode, ports and port functions, and the versions of a card.

Owns the messages of the generic netlink family `devlink` (version 1) that vfmigrate needs; numbers and
types are those of include/uapi/linux/devlink.h. They are built with pyroute2's message classes, from an
attribute table of our own: pyroute2's ends before PORT_FUNCTION's capabilities, and a subclass of its message
would inherit the parent's compiled table, which drops what it does not know while the call succeeds.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Optional

from pyroute2.netlink import NLA_F_NESTED, ctrlmsg, genlmsg, nla

from vfmigrate.errors import HostError, InputError
from vfmigrate.host.netlink import NETLINK_GENERIC, KernelRefusalError, NetlinkSocket
from vfmigrate.model.mac import parse_mac
from vfmigrate.model.pci import PciAddress

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3

_CMD_PORT_GET = 5
_CMD_PORT_SET = 6
_CMD_ESWITCH_GET = 29
_CMD_ESWITCH_SET = 30
_CMD_INFO_GET = 51

_MODES = {"legacy": 0, "switchdev": 1, "switchdev_inactive": 2}
_MODE_NAMES = {number: name for name, number in _MODES.items()}
_FLAVOURS = ("physical", "cpu", "dsa", "pcipf", "pcivf", "virtual", "unused", "pcisf")
_CAP_MIGRATABLE = 0x2


_REMEDIES_BY_ERRNO = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.ENODEV: "see 'devlink port show': the PF must be bound to its host driver, and the port exist",
}


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


class _Message(genlmsg):  # type: ignore[misc]  # pyroute2 carries no types
    prefix = "DEVLINK_ATTR_"
    nla_map = (
        (1, "DEVLINK_ATTR_BUS_NAME", "asciiz"),
        (2, "DEVLINK_ATTR_DEV_NAME", "asciiz"),
        (3, "DEVLINK_ATTR_PORT_INDEX", "uint32"),
        (6, "DEVLINK_ATTR_PORT_NETDEV_IFINDEX", "uint32"),
        (7, "DEVLINK_ATTR_PORT_NETDEV_NAME", "asciiz"),
        (25, "DEVLINK_ATTR_ESWITCH_MODE", "uint16"),
        (77, "DEVLINK_ATTR_PORT_FLAVOUR", "uint16"),
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


class Devlink:
    """devlink of the PCI devices in the network namespace of the thread that makes it; thread-safe.

    Every method raises HostError: the PF, what was asked, the kernel's own text, and what can be done.
    `timeout` is in seconds; changing the eswitch mode of a card with many VFs takes many. `sock` hands in a
    connected socket that carries netlink messages. `remedies` are what to do about a refusal, by a part of the
    kernel's text, which is that of the card's driver.
    """

    def __init__(
        self,
        *,
        timeout: float = 120.0,
        sock: Optional[socket.socket] = None,
        remedies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._remedies = remedies
        self._netlink = NetlinkSocket(NETLINK_GENERIC, timeout=timeout, sock=sock)
        self._family_lock = threading.Lock()
        self._family: Optional[int] = None
        self._indexes: dict[tuple[PciAddress, int], int] = {}

    def eswitch_mode(self, pf: PciAddress) -> str:
        """The mode of the PF's eswitch: legacy, switchdev or switchdev_inactive."""
        (answer,) = self._ask(pf, _CMD_ESWITCH_GET, "read the eswitch mode")
        number = answer.get_attr("DEVLINK_ATTR_ESWITCH_MODE")
        return _MODE_NAMES.get(number, f"unknown mode {number}")

    def set_eswitch_mode(self, pf: PciAddress, mode: str) -> None:
        """Change the mode of the PF's eswitch.

        All ports of VFs appear or vanish with it, also those of running guests: the kernel does not refuse that.
        """
        if mode not in _MODES:
            raise InputError(f"'{mode}' is not an eswitch mode", f"use one of {', '.join(_MODES)}")
        attributes = [("DEVLINK_ATTR_ESWITCH_MODE", _MODES[mode])]
        self._ask(pf, _CMD_ESWITCH_SET, f"set the eswitch mode to {mode}", attributes)

    def ports(self, pf: PciAddress) -> list[Port]:
        """The devlink ports of a PF; empty when it has no devlink instance."""
        try:
            answers = self._request(pf, _CMD_PORT_GET, dump=True)
        except KernelRefusalError as refusal:
            if refusal.number == errno.ENODEV:
                return []
            raise self._host_error(pf, "list the ports", refusal) from None
        # Kernels before 6.6 answer with the ports of every device.
        return [_port(answer) for answer in answers if answer.get_attr("DEVLINK_ATTR_DEV_NAME") == str(pf)]

    def vf_ports(self, pf: PciAddress) -> dict[int, Port]:
        """The ports of the PF's own VFs by VF number; empty unless the eswitch is in switchdev mode.

        VFs of another controller, such as those of the host that a DPU shows, are left out.
        """
        return {
            port.vf: port
            for port in self.ports(pf)
            if port.flavour == "pcivf" and port.vf is not None and not port.external and not port.controller
        }

    def vf_port(self, pf: PciAddress, vf: int) -> Optional[Port]:
        """The port of the PF's own VF number `vf`; None as for `vf_ports()`.

        It requests that port alone if its index is known from an earlier call: a list of all is slow on a card with
        many VFs.
        """
        index = self._indexes.get((pf, vf))
        if index is not None:
            try:
                port = self._port(pf, index)
            except KernelRefusalError:
                port = None  # the ports were created again
            if port is not None and (port.flavour, port.vf) == ("pcivf", vf):
                return port
        ports = self.vf_ports(pf)
        self._indexes.update({(pf, number): port.index for number, port in ports.items()})
        return ports.get(vf)

    def set_port_function(
        self,
        pf: PciAddress,
        port_index: int,
        *,
        hw_addr: Optional[str] = None,
        migratable: Optional[bool] = None,
    ) -> None:
        """Set the initial MAC of a VF, and whether it is migratable; None changes nothing."""
        function: list[tuple[str, object]] = []
        asked = []
        if hw_addr is not None:
            hw_addr = parse_mac(hw_addr)
            function.append(("DEVLINK_PORT_FN_ATTR_HW_ADDR", hw_addr))
            asked.append(f"hw_addr {hw_addr}")
        if migratable is not None:
            capabilities = {"bits": _CAP_MIGRATABLE if migratable else 0, "selector": _CAP_MIGRATABLE}
            function.append(("DEVLINK_PORT_FN_ATTR_CAPS", capabilities))
            asked.append(f"migratable {'enable' if migratable else 'disable'}")
        if not function:
            return
        attributes = [
            ("DEVLINK_ATTR_PORT_INDEX", port_index),
            ("DEVLINK_ATTR_PORT_FUNCTION", {"attrs": function}),
        ]
        self._ask(pf, _CMD_PORT_SET, f"set {' and '.join(asked)} on port {port_index}", attributes)
        port = self._port(pf, port_index)
        took = hw_addr is None or port.hw_addr == hw_addr
        if not took or (migratable is not None and port.migratable != migratable):
            raise HostError(
                f"devlink: PF {pf} accepted {' and '.join(asked)} on port {port_index}, but did not change it"
            )

    def info(self, pf: PciAddress) -> CardVersions:
        """The versions of card and firmware."""
        (answer,) = self._ask(pf, _CMD_INFO_GET, "read the card's versions")
        return CardVersions(
            driver=answer.get_attr("DEVLINK_ATTR_INFO_DRIVER_NAME") or "",
            fixed=dict(_versions(answer, "FIXED")),
            running=dict(_versions(answer, "RUNNING")),
            stored=dict(_versions(answer, "STORED")),
        )

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def _port(self, pf: PciAddress, index: int) -> Port:
        (answer,) = self._request(pf, _CMD_PORT_GET, [("DEVLINK_ATTR_PORT_INDEX", index)])
        return _port(answer)

    def _ask(
        self, pf: PciAddress, command: int, purpose: str, attributes: Sequence[tuple[str, object]] = ()
    ) -> list[Any]:
        try:
            return self._request(pf, command, attributes)
        except KernelRefusalError as refusal:
            raise self._host_error(pf, purpose, refusal) from None

    def _request(
        self,
        pf: PciAddress,
        command: int,
        attributes: Sequence[tuple[str, object]] = (),
        *,
        dump: bool = False,
    ) -> list[Any]:
        message = _Message()
        message["cmd"] = command
        message["version"] = 1
        message["attrs"] = [("DEVLINK_ATTR_BUS_NAME", "pci"), ("DEVLINK_ATTR_DEV_NAME", str(pf)), *attributes]
        family = self._family_id()
        return [_decoded(_Message, answer) for answer in self._netlink.ask(message, family, dump=dump)]

    def _host_error(self, pf: PciAddress, purpose: str, refusal: KernelRefusalError) -> HostError:
        known = [remedy for part, remedy in self._remedies.items() if part in refusal.text]
        remedy = known[0] if known else _REMEDIES_BY_ERRNO.get(refusal.number, "")
        return HostError(f"devlink: cannot {purpose} of PF {pf}: {refusal.text}", remedy)

    def _family_id(self) -> int:
        with self._family_lock:
            if self._family is None:
                self._family = self._resolve_family()
            return self._family

    def _resolve_family(self) -> int:
        message = ctrlmsg()
        message["cmd"] = _CTRL_CMD_GETFAMILY
        message["version"] = 1
        message["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "devlink")]
        try:
            (answer,) = self._netlink.ask(message, _GENL_ID_CTRL)
        except KernelRefusalError as refusal:
            raise HostError(
                f"this kernel has no devlink: {refusal.text}", "load the card's host driver"
            ) from None
        family = _decoded(ctrlmsg, answer).get_attr("CTRL_ATTR_FAMILY_ID")
        return int(family)


def _decoded(message_class: Any, data: bytes) -> Any:
    message = message_class(data)
    message.decode()
    return message


def _port(message: Any) -> Port:
    function = message.get_attr("DEVLINK_ATTR_PORT_FUNCTION")
    capabilities = function.get_attr("DEVLINK_PORT_FN_ATTR_CAPS") if function is not None else None
    migratable = None
    if capabilities is not None and capabilities["selector"] & _CAP_MIGRATABLE:
        migratable = bool(capabilities["bits"] & _CAP_MIGRATABLE)
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
    )


def _versions(message: Any, kind: str) -> Iterator[tuple[str, str]]:
    for name, version in message["attrs"]:
        if name == f"DEVLINK_ATTR_INFO_VERSION_{kind}":
            yield (
                version.get_attr("DEVLINK_ATTR_INFO_VERSION_NAME"),
                version.get_attr("DEVLINK_ATTR_INFO_VERSION_VALUE"),
            )
