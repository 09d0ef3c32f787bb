# SPDX-License-Identifier: GPL-2.0-or-later
"""The door to sysfs: PCI devices, their drivers, and SR-IOV.

Owns every read and write below /sys. Each change is looked at again afterwards, since the kernel accepts several
that do nothing. Behaviour: Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.host.holders import guest_of, holders
from vfmigrate.host.variants import VfioVariants
from vfmigrate.model.pci import PciAddress, PciId
from vfmigrate.model.vfio import GENERIC_DRIVER

_MSIX_CAPABILITY = 0x11
_STATUS_HAS_CAPABILITIES = 0x10
_COMMAND_BUS_MASTER = 0x4
# what driver_override reads as when it is not set (driver_override_show() in the kernel's pci-sysfs.c)
_NO_OVERRIDE = "(null)"


class Sysfs:
    """The PCI devices below one mount of sysfs; thread-safe.

    `root` is where sysfs is mounted, `modules` the directory of the running kernel's modules, `dev` holds the
    device nodes, `proc` the processes; `load` loads a kernel module by its driver's name. All raise HostError:
    which device, what the kernel said, what to do.
    """

    def __init__(
        self,
        root: Path = Path("/sys"),
        *,
        modules: Optional[Path] = None,
        dev: Path = Path("/dev"),
        proc: Path = Path("/proc"),
        load: Callable[[str], object] = lambda _driver: None,
    ) -> None:
        self._root = root
        self._devices = root / "bus/pci/devices"
        self._drivers = root / "bus/pci/drivers"
        self._dev = dev
        self._proc = proc
        self._load = load
        modules = modules if modules is not None else Path("/lib/modules") / os.uname().release
        self._variants = VfioVariants(modules / "modules.alias")
        # Two threads that bind one device would take each other's override away.
        self._binding = threading.Lock()

    # -- what there is

    def exists(self, device: PciAddress) -> bool:
        """Tell whether there is such a device."""
        return self._path(device).exists()

    def is_pf(self, device: PciAddress) -> bool:
        """Tell whether a device can have VFs."""
        return (self._path(device) / "sriov_totalvfs").exists()

    def pci_id(self, device: PciAddress) -> Optional[PciId]:
        """Name the vendor and device ID of a device; None when it is absent, or goes away meanwhile."""
        try:
            vendor, number = (self._read(self._path(device) / name) for name in ("vendor", "device"))
        except HostError:
            return None
        return PciId(int(vendor, 16), int(number, 16))

    def physfn(self, device: PciAddress) -> Optional[PciAddress]:
        """Name the PF of a VF; None when the device is not a VF, or absent."""
        name = _link_name(self._path(device) / "physfn")
        return PciAddress.parse(name) if name is not None else None

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        """List the VFs of a PF, in the order of their numbers; empty when it has none."""
        return [vf for _, vf in sorted(self._numbered_vfs(pf))]

    def vf_index(self, vf: PciAddress) -> int:
        """Tell the number of a VF on its PF."""
        pf = self.physfn(vf)
        for number, address in self._numbered_vfs(pf) if pf is not None else ():
            if address == vf:
                return number
        raise HostError(f"PCI device {vf} is not a VF of this host", "see sriov_numvfs of its PF")

    def netdevs(self, device: PciAddress) -> list[str]:
        """Name the network devices of a device; a PF's include the representors of its VFs."""
        return sorted(_names(self._path(device) / "net"))

    def iommu_group(self, device: PciAddress) -> list[PciAddress]:
        """List the devices of a device's IOMMU group, itself among them; empty without an IOMMU."""
        return sorted(PciAddress.parse(name) for name in _names(self._path(device) / "iommu_group/devices"))

    def msix_count(self, device: PciAddress) -> Optional[int]:
        """Tell the size of a device's MSI-X table; None when it has none.

        Read from configuration space (PCI specification 3.0, 6.8.2), which needs no driver but root.
        """
        space = self._read_bytes(self._path(device) / "config")
        if len(space) < 256 or not space[6] & _STATUS_HAS_CAPABILITIES:
            return None
        offset = space[0x34] & ~3
        for _ in range(48):  # as many as fit; a broken list must not keep us
            if not 0x40 <= offset <= 0xFC:
                break
            if space[offset] == _MSIX_CAPABILITY:
                return (int.from_bytes(space[offset + 2 : offset + 4], "little") & 0x7FF) + 1
            offset = space[offset + 1] & ~3
        return None

    def bus_master(self, device: PciAddress) -> bool:
        """Tell whether a driver has switched a device's bus mastering on (PCI specification 3.0, 6.2.2).

        A driver does so when it takes a device and undoes it when it lets go. VFIO hands a guest's writes of this bit
        through to the device and clears it whenever the device is opened, so for a guest's VF it tells whether the
        guest's driver has it (drivers/vfio/pci/vfio_pci_config.c, vfio_basic_config_write()).
        """
        space = self._read_bytes(self._path(device) / "config", 6)
        command = int.from_bytes(space[4:6], "little")
        return command != 0xFFFF and bool(command & _COMMAND_BUS_MASTER)

    def vf_modalias(self, pf: PciAddress) -> Optional[str]:
        """Show as much of the modalias of a PF's VFs as is known before there are any; None when it is not told.

        Vendor and class are the PF's (SR-IOV specification 3.4.1), the device is in `sriov_vf_device`.
        """
        path = self._path(pf) / "sriov_vf_device"
        if not path.exists():
            return None
        device = int(self._read(path), 16)
        return re.sub(r"d[0-9A-F]{8}sv", f"d{device:08X}sv", self._read(self._path(pf) / "modalias"), count=1)

    # -- drivers

    def driver(self, device: PciAddress) -> Optional[str]:
        """Name the driver a device is bound to; None when it is bound to none, or absent."""
        return _link_name(self._path(device) / "driver")

    def unbind(self, device: PciAddress) -> None:
        """Take a device from its driver, with the override by which it was bound; nothing when it has none.

        A VF held by a guest makes the kernel ask the guest to give it up and wait for that, perhaps for ever: look
        at `in_use()` first.
        """
        with self._binding:
            if self.driver(device) is None:
                return
            self._unbind(device)
            override = self._path(device) / "driver_override"
            if self._read(override) != _NO_OVERRIDE:
                self._write(override, "\n")

    def bind(self, device: PciAddress, driver: str) -> None:
        """Bind a device to a driver, whatever it is bound to now; as for `unbind()`, look at `in_use()` first.

        Goes by driver_override, which binds also while sriov_drivers_autoprobe is off, and takes the override away
        again: left there it would keep every other driver from the device.
        """
        with self._binding:
            current = self.driver(device)
            if current == driver:
                return
            if not (self._drivers / driver).exists():
                self._load(driver)
            if not (self._drivers / driver).exists():
                raise HostError(
                    f"cannot bind {device} to {driver}: this kernel has no such driver loaded",
                    f"modprobe {driver}",
                )
            with self._override(device, driver):
                if current is not None:
                    self._unbind(device)
                self._write(self._root / "bus/pci/drivers_probe", str(device))
            bound = self.driver(device)
            if bound != driver:
                raise HostError(
                    f"{device} did not bind to {driver}, it has {bound or 'no driver'} now",
                    "see dmesg for the driver's reason",
                )

    def variant_driver(self, device: PciAddress) -> str:
        """Name the VFIO driver for a device: the variant made for it, `vfio-pci` when there is none.

        The choice is libvirt's (10.0 and later), so that what is prepared here is what libvirt would use.
        """
        return self.driver_for(self._read(self._path(device) / "modalias"))

    def driver_for(self, modalias: str) -> str:
        """Name the VFIO driver for a device of this modalias, as `variant_driver()` does for one that is there."""
        module = self._variants.best_module(modalias)
        return self._driver_of(module) if module is not None else GENERIC_DRIVER

    def is_vfio(self, driver: Optional[str]) -> bool:
        """Tell whether a driver hands devices to VFIO: vfio-pci or any variant driver of this kernel."""
        if driver is None:
            return False
        return driver == GENERIC_DRIVER or driver.replace("-", "_") in self._variants.modules()

    def in_use(self, vf: PciAddress) -> bool:
        """Tell whether a process holds a VF through VFIO, by its group or its device node.

        Looks through the open files of all processes and touches no node, so it cannot disturb a guest that is
        just starting. What it tells can change the next moment: whoever acts on it must own the VF's claim.
        """
        if not self.is_vfio(self.driver(vf)):
            return False
        return bool(holders(self._vfio_nodes(vf), proc=self._proc))

    def users(self, pf: PciAddress) -> dict[PciAddress, int]:
        """Tell of each VF of a PF that a process holds through VFIO that process's ID: `in_use()` for all at once."""
        nodes = {
            node: vf for vf in self.vfs(pf) if self.is_vfio(self.driver(vf)) for node in self._vfio_nodes(vf)
        }
        return {nodes[node]: pid for node, pid in holders(nodes, proc=self._proc).items()}

    def user_of(self, pid: int) -> str:
        """Tell who a process of `users()` is: the guest it runs, or itself."""
        guest = guest_of(pid, proc=self._proc)
        return f"guest '{guest}'" if guest is not None else f"process {pid}"

    # -- SR-IOV

    def numvfs(self, pf: PciAddress) -> int:
        """Tell how many VFs a PF has."""
        return self._read_number(pf, "sriov_numvfs")

    def totalvfs(self, pf: PciAddress) -> int:
        """Tell how many VFs a PF can have."""
        return self._read_number(pf, "sriov_totalvfs")

    def autoprobe(self, pf: PciAddress) -> bool:
        """Tell whether the kernel binds the PF's new VFs to drivers by itself."""
        return bool(self._read_number(pf, "sriov_drivers_autoprobe"))

    def set_autoprobe(self, pf: PciAddress, on: bool) -> None:
        """Let the kernel bind the PF's VFs to drivers by itself, or keep it from that."""
        self._write(self._path(pf) / "sriov_drivers_autoprobe", str(int(on)))
        if self.autoprobe(pf) != on:
            raise HostError(f"sriov_drivers_autoprobe of PF {pf} did not become {int(on)}")

    def set_numvfs(self, pf: PciAddress, count: int) -> None:
        """Give a PF `count` VFs; nothing when it has as many.

        From one number to another the kernel goes through 0 only, and 0 tears away VFs from the guests that use
        them, so either is refused here while a guest holds one.
        """
        present = self.numvfs(pf)
        if present == count:
            return
        total = self.totalvfs(pf)
        if not 0 <= count <= total:
            raise HostError(f"PF {pf} can have at most {total} VFs, not {count}", "see its sriov_totalvfs")
        if present:
            self._refuse_if_held(pf, count)
            if count:
                raise HostError(
                    f"PF {pf} has {present} VFs and can get {count} only after it has none", "set 0 first"
                )
        if self.driver(pf) is None:
            raise HostError(
                f"PF {pf} is bound to no driver and can have no VFs", "bind it to its host driver"
            )
        self._write(self._path(pf) / "sriov_numvfs", str(count), _NUMVFS_REMEDIES)
        present = self.numvfs(pf)
        if present != count:
            raise HostError(f"PF {pf} has {present} VFs after it was told {count}", "see dmesg")

    def vf_addresses(self, pf: PciAddress, count: int) -> list[PciAddress]:
        """Tell the addresses that the first `count` VFs of a PF have, or would have (SR-IOV specification 3.3.9)."""
        offset, stride = (self._read_number(pf, f"sriov_{name}") for name in ("offset", "stride"))
        first = (pf.bus << 8 | pf.slot << 3 | pf.function) + offset
        numbers = range(first, first + stride * count, stride) if stride else [first] * count
        return [PciAddress(pf.domain, rid >> 8, rid >> 3 & 0x1F, rid & 7) for rid in numbers]

    def set_msix_count(self, vf: PciAddress, count: int) -> None:
        """Give a VF that no driver has `count` MSI-X vectors; nothing when it has as many."""
        if self.msix_count(vf) == count:
            return
        path = self._path(vf) / "sriov_vf_msix_count"
        if not path.exists():
            raise HostError(
                f"the MSI-X count of VF {vf} cannot be set: its PF's driver or this kernel does not offer it",
                "remove msix from the pool, and use the same number of VFs on all hosts",
            )
        self._write(path, str(count))
        present = self.msix_count(vf)
        if present != count:
            raise HostError(f"VF {vf} has {present} MSI-X vectors after it was told {count}", "see dmesg")

    # -- inside

    def _path(self, device: PciAddress) -> Path:
        return self._devices / str(device)

    def _numbered_vfs(self, pf: PciAddress) -> list[tuple[int, PciAddress]]:
        numbered = []
        for name in _names(self._path(pf)):
            if name.startswith("virtfn") and name[6:].isdigit():
                address = _link_name(self._path(pf) / name)
                if address is not None:
                    numbered.append((int(name[6:]), PciAddress.parse(address)))
        return numbered

    def _driver_of(self, module: str) -> str:
        """Name the driver of a module: as the module says when it is loaded, else by the one known exception."""
        for name in _names(self._root / "module" / module / "drivers"):
            if name.startswith("pci:"):
                return name[4:]
        return GENERIC_DRIVER if module == "vfio_pci" else module

    def _vfio_nodes(self, vf: PciAddress) -> list[Path]:
        """List the device nodes by which a process can hold a VF: of its group, and its own since Linux 6.6."""
        group = _link_name(self._path(vf) / "iommu_group")
        nodes = [self._dev / "vfio/devices" / name for name in _names(self._path(vf) / "vfio-dev")]
        if group is not None:
            nodes += [self._dev / "vfio" / group, self._dev / "vfio" / f"noiommu-{group}"]
        return nodes

    def _refuse_if_held(self, pf: PciAddress, count: int) -> None:
        held = self.users(pf)
        if held:
            users = ", ".join(sorted({f"{vf} by {self.user_of(pid)}" for vf, pid in held.items()}))
            raise HostError(
                f"cannot set sriov_numvfs of PF {pf} to {count}, its VFs are in use: {users}",
                "migrate those guests away or shut them down",
            )

    @contextmanager
    def _override(self, device: PciAddress, driver: str) -> Iterator[None]:
        """Let only `driver` match a device for a while."""
        path = self._path(device) / "driver_override"
        self._write(path, driver)
        try:
            yield
        except HostError:
            with suppress(HostError):  # the first one tells more
                self._write(path, "\n")
            raise
        self._write(path, "\n")

    def _unbind(self, device: PciAddress) -> None:
        driver = self.driver(device)
        if driver is None:
            return
        try:
            self._write(self._drivers / driver / "unbind", str(device))
        except HostError:
            # Another (libvirt, an administrator) may have been quicker; then it is as it should be.
            if self.driver(device) is not None:
                raise
        bound = self.driver(device)
        if bound is not None:
            raise HostError(f"{device} is bound to {bound} after {driver} gave it up", "see what binds it")

    def _read_number(self, pf: PciAddress, name: str) -> int:
        if not self.exists(pf):
            raise HostError(f"there is no PCI device {pf}", "see 'lspci -D'")
        path = self._path(pf) / name
        if not path.exists():
            raise HostError(f"PCI device {pf} is not an SR-IOV physical function", f"it has no {name}")
        return int(self._read(path))

    def _read(self, path: Path) -> str:
        return self._read_bytes(path).decode(errors="replace").strip()

    def _read_bytes(self, path: Path, count: int = -1) -> bytes:
        try:
            with path.open(
                "rb", buffering=0
            ) as file:  # configuration space is slow to read: no more than asked
                return file.read(count)
        except OSError as error:
            raise HostError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None

    def _write(self, path: Path, text: str, remedies: Mapping[int, str] = MappingProxyType({})) -> None:
        try:
            # Never made when absent, and in a single write(): each one is a command to the kernel.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            number = error.errno or 0
            told = f"cannot write '{text.strip()}' to {path}: {os.strerror(number)}"
            raise HostError(told, remedies.get(number) or _REMEDIES.get(number, "")) from None


_REMEDIES = {
    errno.EACCES: "run as root",
    errno.EPERM: "run as root; a kernel in lockdown mode refuses this to everyone",
    errno.EROFS: "sysfs is mounted read-only here: see ProtectKernelTunables= of the service",
    errno.ENOENT: "the device or driver is gone",
    errno.ENODEV: "the device is gone, or bound otherwise than it was",
}

# drivers/pci/iov.c: sriov_numvfs_store() and sriov_enable(), and what a PF's driver adds
_NUMVFS_REMEDIES = {
    errno.EBUSY: "another program is changing the PF's VFs, or the driver still holds them: see dmesg and what else"
    " writes sriov_numvfs, then try again",
    errno.ENOENT: "the PF's driver offers no VFs: bind the PF to its host driver",
    errno.ENOMEM: "the firmware gave the PF no room for its VFs: enable SR-IOV and above-4G decoding in the BIOS,"
    " or boot with pci=realloc",
    errno.ENOSPC: "the firmware gave the PF no bus numbers for its VFs: enable SR-IOV in the BIOS,"
    " or boot with pci=assign-busses",
}


def _link_name(path: Path) -> Optional[str]:
    """Name what a link points to; None when there is no such link."""
    try:
        return os.path.basename(os.readlink(path))  # noqa: PTH115, PTH119
    except FileNotFoundError:
        return None


def _names(directory: Path) -> Sequence[str]:
    """List a directory; empty when it is not there."""
    try:
        return os.listdir(directory)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return ()
