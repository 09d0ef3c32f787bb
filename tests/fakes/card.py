# SPDX-License-Identifier: GPL-2.0-or-later
"""An SR-IOV network card as the kernel shows it: the PCI bus (sysfs) and the eswitch (devlink).

Plain Python without I/O. `sysfs_tree.py` shows it as files, `devlink_server.py` as netlink messages. Both use this one
model: a VF made through sysfs has its devlink port at once, and the variant driver reads the flag that was set through
devlink when it binds.

Every refusal is an OSError with the kernel's errno; its strerror is the kernel's extended-ack text, or empty. The model
follows drivers/pci/iov.c, drivers/pci/pci-driver.c, drivers/base/bus.c,
drivers/base/dd.c, net/devlink/port.c, and mlx5's esw/devlink_port.c and eswitch_offloads.c. `observations.py`
holds the observations of a real kernel that the sysfs side is compared with.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Optional

from tests.fakes.hardware import (
    DevlinkPort,
    Function,
    Hardware,
    Netdev,
    Netdevs,
    NumberedNetdevs,
    netdev_name,
)
from tests.fakes.kstrto import boolean, u16

LEGACY = "legacy"
SWITCHDEV = "switchdev"
UPLINK_VPORT = 0xFFFF
_NO_MAC = "00:00:00:00:00:00"
_MELLANOX = 0x15B3


@dataclass
class _Vport:
    """What firmware and eswitch store about one VF."""

    hw_addr: str = _NO_MAC
    migratable: bool = False


@dataclass
class _Eswitch:
    mode: str = LEGACY
    users: int = 0  # offloaded rules and other users that block a change of the mode
    vports: dict[int, _Vport] = field(default_factory=dict)


class Card:
    """One card: its physical functions, the VFs they have now, and the PCI drivers that can take them.

    `functions` are the addresses of the PFs. All methods may be called from several threads; what they return
    is a snapshot. Addresses are text as in sysfs. The methods that change something are named after the sysfs
    attribute or devlink operation they stand for; those of sysfs take the text that was written.
    """

    def __init__(
        self,
        functions: Sequence[str] = ("0000:e1:00.0",),
        *,
        hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
        netdevs: Optional[Netdevs] = None,
        switch_id: str = "0c42a1fffe123456",
    ) -> None:
        self.hardware = hardware
        self.switch_id = switch_id
        self.pfs = tuple(functions)
        # every requested change in order, also those that were refused
        self.trace: list[tuple[str, ...]] = []
        self._netdevs = netdevs if netdevs is not None else NumberedNetdevs()
        self._lock = threading.RLock()
        self._functions: dict[str, Function] = {}
        self._eswitches = {pf: _Eswitch() for pf in self.pfs}
        self._dynamic_ids: dict[str, set[tuple[int, int]]] = {driver: set() for driver in self.drivers()}
        self._next_group = 1
        for pf in self.pfs:
            self._add(Function(pf, hardware.vendor, hardware.pf_device, 64, total_vfs=hardware.total_vfs))

    # -- the PCI bus

    def drivers(self) -> list[str]:
        """Name the PCI drivers registered on the bus, in the order in which they are tried."""
        names = (self.hardware.host_driver, "vfio-pci", self.hardware.variant_driver)
        return [name for name in names if name is not None]

    def functions(self) -> list[Function]:
        """List the PFs and VFs that exist now."""
        with self._lock:
            return list(self._functions.values())

    def function(self, address: str) -> Function:
        """Show one function; ENODEV when it does not exist."""
        with self._lock:
            return self._function(address)

    def set_bus_master(self, address: str, on: bool) -> None:
        """Set bus mastering, as the function's driver does; for a VF under VFIO, the guest's driver."""
        with self._changing("bus_master", address, str(on)):
            self._functions[address] = replace(self._function(address), bus_master=on)

    def vf(self, index: int, pf: Optional[str] = None) -> str:
        """Give the address that VF number `index` of a PF (the first one, unless named) has or would have."""
        position = self.pfs.index(pf) if pf is not None else 0
        domain, bus, slot_function = self.pfs[position].split(":")
        first = max(2, len(self.pfs)) + position * self.hardware.total_vfs
        routing_id = (int(bus, 16) << 8 | int(slot_function[:2], 16) << 3) + first + index
        return f"{domain}:{routing_id >> 8:02x}:{routing_id >> 3 & 0x1F:02x}.{routing_id & 7}"

    def vf_offset(self, pf: str) -> int:
        """Show `sriov_offset`: the distance between a PF and its first VF in routing IDs."""
        _, first_bus, first = self.vf(0, pf).split(":")
        _, bus, own = pf.split(":")
        numbers = ((int(each[:2], 16) << 3) + int(each[3]) for each in (first, own))
        first_rid, own_rid = (int(number, 16) << 8 | low for number, low in zip((first_bus, bus), numbers))
        return first_rid - own_rid

    def msix_count(self, address: str, text: str) -> None:
        """Write `sriov_vf_msix_count` of a VF (drivers/pci/iov.c); the VF must have no driver."""
        with self._changing("msix_count", address, text):
            count = int(text)
            function = self._function(address)
            if function.pf is None or not self.hardware.vf_msix_pool:
                raise OSError(errno.EOPNOTSUPP, "")
            if function.driver is not None:
                raise OSError(errno.EBUSY, "")
            if not 0 <= count <= self.hardware.vf_msix_pool:
                raise OSError(errno.EINVAL, "")
            self._functions[address] = replace(function, msix=count)

    def numvfs(self, pf: str, text: str) -> None:
        """Write `sriov_numvfs`."""
        with self._changing("numvfs", pf, text):
            count = u16(text)
            function = self._physical(pf)
            if count > function.total_vfs:
                raise OSError(errno.ERANGE, "")
            if count == function.num_vfs:
                return
            if function.driver != self.hardware.host_driver:
                raise OSError(errno.ENOENT, "")
            if count and function.num_vfs:
                raise OSError(errno.EBUSY, "")
            self._resize(pf, count)

    def autoprobe(self, pf: str, text: str) -> None:
        """Write `sriov_drivers_autoprobe`."""
        with self._changing("autoprobe", pf, text):
            self._functions[pf] = replace(self._physical(pf), autoprobe=boolean(text))

    def driver_override(self, address: str, text: str) -> None:
        """Write `driver_override`; an empty line clears it."""
        with self._changing("driver_override", address, text):
            override = text.split("\n", 1)[0] or None
            self._functions[address] = replace(self._function(address), driver_override=override)

    def bind(self, driver: str, address: str) -> None:
        """Write a driver's `bind`."""
        address = address.strip()
        with self._changing("bind", address, driver):
            function = self._function(address)
            if not self._matches(driver, function):
                raise OSError(errno.ENODEV, "")
            if function.driver is not None:
                raise OSError(errno.EBUSY, "")
            refusal = self._attach(driver, address)
            if refusal:
                raise OSError(refusal, "")

    def unbind(self, driver: str, address: str) -> None:
        """Write a driver's `unbind`. Unbinding a PF removes its VFs and its devlink instance, as mlx5 does."""
        address = address.strip()
        with self._changing("unbind", address, driver):
            function = self._function(address)
            if function.driver != driver:
                raise OSError(errno.ENODEV, "")
            if function.total_vfs:
                self._resize(address, 0)
                self._eswitches[address] = _Eswitch()
            self._functions[address] = replace(
                self._function(address), driver=None, migratable_at_bind=None, bus_master=False
            )

    def drivers_probe(self, address: str) -> None:
        """Write the bus's `drivers_probe`; it is no error if no driver binds the device."""
        address = address.strip()
        with self._changing("drivers_probe", address):
            self._function(address)
            self._probe(address)

    def vfio_answer(self, address: str) -> tuple[int, bool, int]:
        """What a VF's driver answers through VFIO: migration flags, whether it logs DMA, size of its state.

        mlx5_vfio_pci answers by the flag that it read when it bound; other variant drivers know no flag.
        """
        with self._lock:
            function, hardware = self._function(address), self.hardware
            flagged = hardware.migration or hardware.vendor == _MELLANOX
            able = bool(function.migratable_at_bind) if flagged else True
            if function.driver != hardware.variant_driver or not able:
                return 0, False, -1
            return hardware.migration_flags, hardware.dma_logging, hardware.state_size

    def new_id(self, driver: str, text: str) -> None:
        """Write a driver's `new_id`, vendor and device in hexadecimal; the driver binds matching devices at once."""
        with self._changing("new_id", driver, text):
            parts = text.split()
            if len(parts) < 2:
                raise OSError(errno.EINVAL, "")
            self._dynamic_ids[driver].add((int(parts[0], 16), int(parts[1], 16)))
            for address, function in list(self._functions.items()):
                if function.driver is None and self._matches(driver, function):
                    self._attach(driver, address)

    def netdevs(self, address: str) -> list[tuple[Netdev, str]]:
        """List the network devices below a function's `net/` with their phys_port_name.

        A PF's holds its uplink and, under switchdev, the representors of its VFs; a VF's holds its own device
        while the host's driver has it.
        """
        with self._lock:
            function = self._function(address)
            if function.driver != self.hardware.host_driver:
                return []
            if function.pf is not None:
                ifindex = 1000 + self.pfs.index(function.pf) * 64 + (function.vf or 0)
                return [(Netdev(ifindex, f"{netdev_name(function.pf)}v{function.vf}"), "")]
            return [(port.netdev, port.phys_port_name) for port in self._ports(address) if port.netdev]

    # -- the eswitch

    def handles(self) -> list[str]:
        """List the PFs that have a devlink instance: those bound to the host's driver."""
        with self._lock:
            return [pf for pf in self.pfs if self._functions[pf].driver == self.hardware.host_driver]

    def eswitch_mode(self, pf: str) -> str:
        """Answer ESWITCH_GET."""
        with self._lock:
            self._refuse_unless_manager(pf)
            return self._eswitch(pf).mode

    def set_eswitch_mode(self, pf: str, mode: str) -> None:
        """Answer ESWITCH_SET."""
        with self._changing("eswitch_mode", pf, mode):
            self._refuse_unless_manager(pf)
            eswitch = self._eswitch(pf)
            if mode not in {LEGACY, SWITCHDEV}:
                raise OSError(errno.EINVAL, "")
            if mode == eswitch.mode:
                return
            if eswitch.users:
                raise OSError(
                    errno.EBUSY, f"{self.hardware.host_driver}: Can't change mode, E-Switch is busy"
                )
            eswitch.mode = mode

    def occupy_eswitch(self, pf: str, users: int) -> None:
        """Simulate `users` offloaded rules that block a change of the eswitch's mode."""
        with self._lock:
            self._eswitch(pf).users = users

    def ports(self, pf: str) -> list[DevlinkPort]:
        """Answer PORT_GET for one devlink instance."""
        with self._lock:
            self._eswitch(pf)
            return self._ports(pf)

    def set_port_function(
        self, pf: str, index: int, *, hw_addr: Optional[str] = None, migratable: Optional[bool] = None
    ) -> None:
        """Answer PORT_SET with a port function."""
        asked = [f"hw_addr={hw_addr}"] * (hw_addr is not None) + [f"migratable={migratable}"] * (
            migratable is not None
        )
        with self._changing("port_function", pf, str(index), *asked):
            port = next((port for port in self.ports(pf) if port.index == index), None)
            if port is None:
                raise OSError(errno.ENODEV, "")
            # The kernel checks everything it can before it changes anything, capabilities last.
            if migratable is not None and port.vf is None:
                raise OSError(errno.EOPNOTSUPP, "migratable function attribute supported for VFs only")
            if hw_addr is not None:
                self._set_hw_addr(pf, port, hw_addr)
            if migratable is not None:
                self._set_migratable(pf, port, migratable)

    def info(self, pf: str) -> Mapping[str, Mapping[str, str]]:
        """Answer INFO_GET: versions by name under `fixed`, `running` and `stored`."""
        with self._lock:
            self._eswitch(pf)
            running = self.hardware.firmware
            stored = self.hardware.stored_firmware or running
            return {
                "fixed": {"fw.psid": self.hardware.psid},
                "running": {"fw.version": running, "fw": running},
                "stored": {"fw.version": stored, "fw": stored},
            }

    # -- inside

    @contextmanager
    def _changing(self, *what: str) -> Iterator[None]:
        with self._lock:
            self.trace.append(what)
            yield

    def _function(self, address: str) -> Function:
        if address not in self._functions:
            raise OSError(errno.ENODEV, "")
        return self._functions[address]

    def _physical(self, pf: str) -> Function:
        function = self._function(pf)
        if not function.total_vfs:
            raise OSError(errno.ENOENT, "")
        return function

    def _add(self, function: Function) -> None:
        if self.hardware.iommu:
            function = replace(function, iommu_group=self._next_group)
            self._next_group += 1
        self._functions[function.address] = function
        self._probe(function.address)

    def _resize(self, pf: str, count: int) -> None:
        for address in [address for address, function in self._functions.items() if function.pf == pf]:
            del self._functions[address]
        self._eswitches[pf].vports = {index: _Vport() for index in range(count)}
        self._functions[pf] = replace(self._functions[pf], num_vfs=count)
        vendor, device, msix = self.hardware.vendor, self.hardware.vf_device, self.hardware.vf_msix
        for index in range(count):
            self._add(Function(self.vf(index, pf), vendor, device, msix, pf=pf, vf=index))

    def _matches(self, driver: str, function: Function) -> bool:
        """Decide as pci_match_device() does; VFIO drivers match only by override or dynamic ID."""
        if function.driver_override is not None:
            return function.driver_override == driver
        return (
            driver == self.hardware.host_driver
            or (function.vendor, function.device) in self._dynamic_ids[driver]
        )

    def _attach(self, driver: str, address: str) -> int:
        """Let a driver bind an unbound device; returns its errno, or 0."""
        function = self._functions[address]
        if function.pf and not self._functions[function.pf].autoprobe and not function.driver_override:
            return errno.ENODEV
        if driver != self.hardware.host_driver and function.iommu_group is None:
            return errno.EINVAL
        migratable = None
        if driver == self.hardware.variant_driver and function.pf is not None and function.vf is not None:
            eswitch = self._eswitches[function.pf]
            migratable = eswitch.mode == SWITCHDEV and eswitch.vports[function.vf].migratable
        host = driver == self.hardware.host_driver
        self._functions[address] = replace(
            function, driver=driver, migratable_at_bind=migratable, bus_master=host
        )
        return 0

    def _probe(self, address: str) -> None:
        for driver in self.drivers():
            function = self._functions[address]
            if function.driver is None and self._matches(driver, function):
                self._attach(driver, address)

    def _refuse_unless_manager(self, pf: str) -> None:
        self._eswitch(pf)
        if not self.hardware.eswitch_manager:
            raise OSError(errno.EOPNOTSUPP, "")

    def _eswitch(self, pf: str) -> _Eswitch:
        if pf not in self.handles():
            raise OSError(errno.ENODEV, "")
        return self._eswitches[pf]

    def _ports(self, pf: str) -> list[DevlinkPort]:
        position = self.pfs.index(pf)
        base = position << 16  # mlx5: the function's VHCA number above, its vport below
        ports = [DevlinkPort(base | UPLINK_VPORT, "physical", position, None, self._netdevs.uplink(pf))]
        eswitch = self._eswitches[pf]
        for vf, vport in eswitch.vports.items() if eswitch.mode == SWITCHDEV else ():
            migratable = vport.migratable if self.hardware.migration else None
            netdev = self._netdevs.representor(pf, vf)
            ports.append(DevlinkPort(base | vf + 1, "pcivf", position, vf, netdev, vport.hw_addr, migratable))
        return ports

    def _set_hw_addr(self, pf: str, port: DevlinkPort, hw_addr: str) -> None:
        if port.vf is None:
            raise OSError(errno.EOPNOTSUPP, "Port does not support function attributes")
        if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", hw_addr):
            raise OSError(errno.EINVAL, "Address must be 6 bytes for Ethernet device")
        if int(hw_addr[:2], 16) & 1:
            raise OSError(errno.EINVAL, "Non-unicast hardware address unsupported")
        self._eswitches[pf].vports[port.vf].hw_addr = hw_addr

    def _set_migratable(self, pf: str, port: DevlinkPort, migratable: bool) -> None:
        driver = self.hardware.host_driver
        if not self.hardware.migration:
            raise OSError(errno.EOPNOTSUPP, f"{driver}: Device doesn't support migration")
        if not self.hardware.vhca_management:
            raise OSError(errno.EOPNOTSUPP, f"{driver}: Device doesn't support VHCA management")
        vport = self._eswitches[pf].vports[port.vf or 0]
        if vport.migratable == migratable:
            return
        # Firmware refuses while the host's driver uses the VF. Under a VFIO driver it accepts the flag, which
        # has no effect until that driver binds again.
        if self._functions[self.vf(port.vf or 0, pf)].driver == driver:
            raise OSError(errno.EINVAL, f"{driver}: Failed setting HCA migratable cap")
        vport.migratable = migratable
