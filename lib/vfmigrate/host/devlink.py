# SPDX-License-Identifier: GPL-2.0-or-later
"""devlink: eswitch mode, ports and port functions, and the versions of a card.

Speaks the generic netlink family `devlink` (version 1); `devlink_messages` has the attributes. Kernels from 6.6 on
can list the ports of one device (commit 4a1b5aa8b5c7, "devlink: allow user to narrow per-instance dumps by passing
handle attrs"). Older ones ignore what a list is limited to and lock every device in turn, so that one that is busy
holds up the list; they answer for one port at once (devlink_nl_pre_doit() locks its device alone).
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from types import MappingProxyType
from typing import Any, Callable, Optional

from pyroute2.netlink import ctrlmsg

from vfmigrate import deadline
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, InputError
from vfmigrate.host.devlink_messages import (
    CAP_MIGRATABLE,
    CardVersions,
    DevlinkMessage,
    Port,
    device_of,
    eswitch_mode_of,
    local_vf_ports,
    port_of,
    versions_of,
)
from vfmigrate.host.netlink import NETLINK_GENERIC, REMEDY, Exchange, KernelRefusalError, NetlinkSocket
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

_REMEDIES_BY_ERRNO = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.ENODEV: "see 'devlink port show': the PF must be bound to its host driver, and the port exist",
}


class NoDevlinkError(HostError):
    """The device has no devlink instance: it is gone, or has no driver with devlink."""


class Devlink:
    """devlink of the PCI devices in the network namespace of the thread that makes it; thread-safe.

    Each PF has a connection of its own to the kernel, and a change of an eswitch mode another one, so that a card that
    is slow to answer delays nobody who asks for another. A connection is closed when the kernel no longer knows the PF.

    Every method raises HostError: the PF, what was asked, the kernel's own text, and what can be done.
    `timeout` is in seconds; changing the eswitch mode of a card with many VFs takes many. `connect` makes connected
    sockets that carry netlink messages. `remedies` are what to do about a refusal, by a part of the kernel's text,
    which is that of the card's driver.
    """

    def __init__(
        self,
        *,
        timeout: float = 120.0,
        connect: Optional[Callable[[], socket.socket]] = None,
        remedies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._timeout = timeout
        self._connect = connect
        self._remedies = remedies
        self._lock = threading.Lock()  # held for moments only, never while the kernel works
        self._connections: dict[PciAddress, NetlinkSocket] = {}
        self._family: Optional[int] = None
        self._known: dict[PciAddress, dict[int, Port]] = {}
        self._narrows = True

    def eswitch_mode(self, pf: PciAddress) -> str:
        """The mode of the PF's eswitch: legacy, switchdev or switchdev_inactive."""
        (answer,) = self._ask(pf, _CMD_ESWITCH_GET, "read the eswitch mode")
        number = eswitch_mode_of(answer)
        return _MODE_NAMES.get(number, f"unknown mode {number}")

    def set_eswitch_mode(self, pf: PciAddress, mode: str) -> None:
        """Change the mode of the PF's eswitch.

        All ports of VFs appear or vanish with it, also those of running guests: the kernel does not refuse that.
        """
        if mode not in _MODES:
            raise InputError(f"'{mode}' is not an eswitch mode", f"use one of {', '.join(_MODES)}")
        attributes = [("DEVLINK_ATTR_ESWITCH_MODE", _MODES[mode])]
        with closing(self._open()) as connection:
            self._ask(pf, _CMD_ESWITCH_SET, f"set the eswitch mode to {mode}", attributes, connection)

    def ports(self, pf: PciAddress) -> list[Port]:
        """The devlink ports of a PF; empty when it has no devlink instance."""
        try:
            answers = self._request(pf, _CMD_PORT_GET, dump=True)
        except KernelRefusalError as refusal:
            if refusal.number == errno.ENODEV:
                return []
            raise self._host_error(pf, "list the ports", refusal) from None
        ports: dict[str, list[Port]] = {str(pf): []}
        for answer in answers:
            ports.setdefault(device_of(answer), []).append(port_of(answer))
        if len(ports) > 1:
            self._learn_all(ports)
        else:
            self._known[pf] = local_vf_ports(pf, ports[str(pf)])
        return ports[str(pf)]

    def _learn_all(self, ports: Mapping[str, Sequence[Port]]) -> None:
        """Remember the ports of every PF, from a kernel that lists them all (before 6.6) whatever is asked for.

        Such a list waits for every card, so `vf_ports()` avoids the next one.
        """
        self._narrows = False
        for name, of_device in ports.items():
            with suppress(InputError):  # not a PCI device
                pf = PciAddress.parse(name)
                self._known[pf] = local_vf_ports(pf, of_device)

    def vf_ports(self, pf: PciAddress, count: Optional[int] = None) -> dict[int, Port]:
        """The ports of the PF's own VFs by VF number; empty unless the eswitch is in switchdev mode.

        VFs of another host or PF, such as those of the host that a DPU shows, are left out. `count` is how many VFs
        the PF has, if known: a kernel that can only list the ports of all cards is then asked for them one by one.
        """
        if count is not None and not self._narrows:
            single = self._vf_ports_singly(pf, count)
            if single is not None:
                return single
        return local_vf_ports(pf, self.ports(pf))

    def _vf_ports_singly(self, pf: PciAddress, count: int) -> Optional[dict[int, Port]]:
        """The ports of a PF's VFs, each by a request of its own; None when one of them is not known."""
        if self._is_legacy(pf):
            return {}
        found = {number: self._known_port(pf, number) for number in range(count)}
        return {number: port for number, port in found.items() if port} if all(found.values()) else None

    def _is_legacy(self, pf: PciAddress) -> bool:
        """Whether the PF has an eswitch without ports for VFs."""
        try:
            return self.eswitch_mode(pf) == "legacy"
        except HostError:
            return False

    def vf_port(self, pf: PciAddress, vf: int) -> Optional[Port]:
        """The port of the PF's own VF number `vf`; None as for `vf_ports()`.

        It requests that port alone if its index is known from an earlier call: a list of all is slow on a card with
        many VFs, and waits for other cards on a kernel that lists the ports of all.
        """
        port = self._known_port(pf, vf)
        if port is not None or (not self._narrows and self._is_legacy(pf)):
            return port
        return self.vf_ports(pf).get(vf)

    def _known_port(self, pf: PciAddress, vf: int) -> Optional[Port]:
        """The port of a VF, requested by the index that it had; None if there was none, or it is another's now."""
        known = self._known.get(pf, {}).get(vf)
        if known is None:
            return None
        try:
            port = self._port(pf, known.index)
        except KernelRefusalError:
            return None  # the ports were created again
        return port if port.identity == known.identity else None

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
            capabilities = {"bits": CAP_MIGRATABLE if migratable else 0, "selector": CAP_MIGRATABLE}
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
        return versions_of(answer)

    def close(self) -> None:
        """Close the connections to the kernel."""
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        for connection in connections:
            connection.close()

    def _open(self) -> NetlinkSocket:
        sock = self._connect() if self._connect is not None else None
        return NetlinkSocket(NETLINK_GENERIC, timeout=self._timeout, sock=sock)

    def _port(self, pf: PciAddress, index: int) -> Port:
        (answer,) = self._request(pf, _CMD_PORT_GET, [("DEVLINK_ATTR_PORT_INDEX", index)])
        return port_of(answer)

    def _ask(
        self,
        pf: PciAddress,
        command: int,
        purpose: str,
        attributes: Sequence[tuple[str, object]] = (),
        connection: Optional[NetlinkSocket] = None,
    ) -> list[bytes]:
        try:
            return self._request(pf, command, attributes, connection=connection)
        except KernelRefusalError as refusal:
            raise self._host_error(pf, purpose, refusal, attributes) from None

    def _request(
        self,
        pf: PciAddress,
        command: int,
        attributes: Sequence[tuple[str, object]] = (),
        *,
        dump: bool = False,
        connection: Optional[NetlinkSocket] = None,
    ) -> list[bytes]:
        """Ask the kernel about a PF, over the PF's connection or the one that is given."""
        message = DevlinkMessage()
        message["cmd"] = command
        message["version"] = 1
        message["attrs"] = [("DEVLINK_ATTR_BUS_NAME", "pci"), ("DEVLINK_ATTR_DEV_NAME", str(pf)), *attributes]
        door = Door(f"devlink of PF {pf}", REMEDY)
        try:
            with deadline.waiting(door, self._timeout):
                return self._send(pf, message, dump, connection).result()
        except KernelRefusalError as refusal:
            if refusal.number == errno.ENODEV and not _is_about_port(attributes):
                self._forget(pf)
            raise

    def _send(
        self, pf: PciAddress, message: Any, dump: bool, connection: Optional[NetlinkSocket]
    ) -> Exchange:
        if connection is not None:
            return connection.send(message, self._family_id(connection), dump=dump)
        with self._lock:
            connection = self._connections.get(pf)
            if connection is None:
                connection = self._connections[pf] = self._open()
            family = self._family_id(connection)
            # Under the lock, so that _forget() closes the connection after this request.
            return connection.send(message, family, dump=dump)

    def _forget(self, pf: PciAddress) -> None:
        """Close the connection of a PF that is gone; should it come back, the next request makes another."""
        with self._lock:
            self._known.pop(pf, None)
            connection = self._connections.pop(pf, None)
        if connection is not None:
            connection.close()

    def _host_error(
        self,
        pf: PciAddress,
        purpose: str,
        refusal: KernelRefusalError,
        attributes: Sequence[tuple[str, object]] = (),
    ) -> HostError:
        known = [remedy for part, remedy in self._remedies.items() if part in refusal.text]
        remedy = known[0] if known else _REMEDIES_BY_ERRNO.get(refusal.number, "")
        absent = refusal.number == errno.ENODEV and not _is_about_port(attributes)
        kind = NoDevlinkError if absent else HostError
        return kind(f"devlink: cannot {purpose} of PF {pf}: {refusal.text}", remedy)

    def _family_id(self, connection: NetlinkSocket) -> int:
        """The number of the family, asked of the kernel once; this waits for no card."""
        if self._family is None:
            message = ctrlmsg()
            message["cmd"] = _CTRL_CMD_GETFAMILY
            message["version"] = 1
            message["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "devlink")]
            try:
                (answer,) = connection.ask(message, _GENL_ID_CTRL)
            except KernelRefusalError as refusal:
                raise HostError(
                    f"this kernel has no devlink: {refusal.text}", "load the card's host driver"
                ) from None
            described = ctrlmsg(answer)
            described.decode()
            self._family = int(described.get_attr("CTRL_ATTR_FAMILY_ID"))
        return self._family


def _is_about_port(attributes: Sequence[tuple[str, object]]) -> bool:
    return any(name == "DEVLINK_ATTR_PORT_INDEX" for name, _ in attributes)
