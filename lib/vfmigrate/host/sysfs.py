# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI devices in sysfs: their drivers, who uses them, and SR-IOV.

All writes below /sys are made here. Every change is read back, because the kernel accepts some without
effect. Behaviour: Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Optional

from vfmigrate import deadline, locks
from vfmigrate.errors import HostError
from vfmigrate.host.holders import guest_of, holders
from vfmigrate.host.pci_devices import PciDevices
from vfmigrate.host.sysfs_files import bounded, exists, link_name, names, read_held, read_text, write_text
from vfmigrate.host.variants import VfioVariants
from vfmigrate.host.vfio import VfioNodes
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER
from vfmigrate.os_errors import ABSENT, failed
from vfmigrate.text import quoted

# the text of driver_override when it is not set (driver_override_show() in the kernel's pci-sysfs.c)
_NO_OVERRIDE = "(null)"


def _override(text: str) -> Optional[str]:
    return text if text not in ("", _NO_OVERRIDE) else None


# drivers/pci/iov.c: sriov_numvfs_store() and sriov_enable(), and what a PF's driver adds
_NUMVFS_REMEDIES = {
    errno.EBUSY: "another program is changing the PF's VFs, or the driver still holds them: see dmesg and what else"
    " writes sriov_numvfs, then try again",
    errno.ENOENT: "the PF's driver offers no VFs: bind the PF to its host driver",
    errno.ENOMEM: "the firmware gave the PF no address space for its VFs: enable SR-IOV and above-4G decoding in the"
    " BIOS, or boot with pci=realloc",
    errno.ENOSPC: "the firmware gave the PF no bus numbers for its VFs: enable SR-IOV in the BIOS,"
    " or boot with pci=assign-busses",
}
# For resetting driver_override when the time is up: it would keep every other driver from the device.
_RESET_SECONDS = 2.0

# The kernel's modules: where vfmigrated.service mounts them, because it hides their own place, and that.
_MODULES = (Path("/run/vfmigrate/modules"), Path("/lib/modules"))


class Sysfs(PciDevices):
    """The PCI devices below one mount of sysfs; thread-safe.

    `root` is where sysfs is mounted, `modules` the directory of the running kernel's modules, `dev` holds the
    device nodes, `proc` the processes; `load` loads a kernel module by its driver's name, `config`
    reads configuration space where this process has no right to more than its head; processes of `own` never count as
    users of a VF. All raise HostError: which device, what the kernel said, what to do.
    """

    def __init__(  # noqa: PLR0913 - one for each part of the host that tests replace
        self,
        root: Path = Path("/sys"),
        *,
        modules: Optional[Path] = None,
        dev: Path = Path("/dev"),
        proc: Path = Path("/proc"),
        load: Callable[[str], object] = lambda _driver: None,
        config: Optional[Callable[[Sequence[PciAddress]], Mapping[PciAddress, bytes]]] = None,
        own: Container[int] = (),
    ) -> None:
        super().__init__(root, config=config)
        self._drivers = root / "bus/pci/drivers"
        self._dev = dev
        self._proc = proc
        self._load = load
        if modules is None:
            places = [place / os.uname().release for place in _MODULES]
            # isdir: a unit can make a place inaccessible
            modules = next((place for place in places if os.path.isdir(place)), places[-1])  # noqa: PTH112
        self._own = own
        self._variants = VfioVariants(modules / "modules.alias")
        self._binding: dict[PciAddress, threading.Lock] = {}

    # -- drivers

    def driver(self, device: PciAddress) -> Optional[str]:
        """The driver of a device; None when it is bound to none, or does not exist."""
        return link_name(self._file(device, "driver"))

    def unbind(self, device: PciAddress) -> None:
        """Unbind a device from its driver, if it has one, and reset driver_override.

        If a guest has the VF, the kernel asks the guest to release it and waits, possibly for ever: call `in_use()`
        before.
        """
        with self._binding_lock(device):
            if self.driver(device) is None:
                return
            self._unbind(device)
            self._reset_override(device)

    def driver_override(self, device: PciAddress) -> Optional[str]:
        """The only driver that a device may be bound to; None when any may."""
        return _override(read_held(self._file(device, "driver_override")))

    def driver_overrides(self, devices: Sequence[PciAddress]) -> dict[PciAddress, Optional[str]]:
        """The `driver_override()` of many devices, read together; without those that could not be read in time."""
        found: dict[PciAddress, Optional[str]] = {}

        def read() -> None:
            for device in devices:
                with suppress(HostError):  # it has just gone
                    found[device] = _override(read_text(self._file(device, "driver_override")))

        with suppress(HostError):
            bounded("read driver_override of VFs", read)
        return found.copy()

    def reset_override(self, device: PciAddress) -> None:
        """Let a device be bound to any driver again."""
        with self._binding_lock(device):
            self._reset_override(device)

    def _reset_override(self, device: PciAddress) -> None:
        if self.driver_override(device) is not None:
            write_text(self._file(device, "driver_override"), "\n")

    def bind(self, device: PciAddress, driver: str) -> None:
        """Bind a device to a driver, whatever it is bound to; as for `unbind()`, call `in_use()` before.

        This uses driver_override, which also works while sriov_drivers_autoprobe is off, and resets it afterwards,
        because it would prevent every other driver from binding.
        """
        with self._binding_lock(device):
            current = self.driver(device)
            if current == driver:
                return
            if not exists(self._drivers / driver):
                self._load(driver)
            if not exists(self._drivers / driver):
                raise HostError(
                    f"cannot bind {device} to {driver}: this kernel has no such driver loaded",
                    f"modprobe {quoted(driver)}",
                )
            with self._overridden(device, driver):
                if current is not None:
                    self._unbind(device)
                write_text(self._root / "bus/pci/drivers_probe", str(device))
            bound = self.driver(device)
            if bound != driver:
                raise HostError(
                    f"{device} did not bind to {driver}; its driver is now {bound or 'none'}",
                    "see dmesg for the driver's reason",
                )

    def variant_driver(self, device: PciAddress) -> str:
        """The VFIO driver for a device: its variant driver, or `vfio-pci` when there is none.

        libvirt (10.0 and later) makes the same choice, so that a VF is prepared with the driver that libvirt uses.
        """
        return self.driver_for(read_text(self._file(device, "modalias")))

    def driver_for(self, modalias: str) -> str:
        """The VFIO driver for a device of this modalias, as `variant_driver()` for one that exists."""
        module = self._variants.best_module(modalias)
        return self._driver_of(module) if module is not None else GENERIC_DRIVER

    def is_vfio(self, driver: Optional[str]) -> bool:
        """Whether a driver is a VFIO driver: vfio-pci or any variant driver of this kernel."""
        if driver is None:
            return False
        return driver == GENERIC_DRIVER or driver.replace("-", "_") in self._variants.modules()

    def in_use(self, vf: PciAddress) -> bool:
        """Whether a process uses a VF through VFIO, by its group or its device node.

        This reads the open files of all processes and opens no node, so it cannot disturb a guest that starts. The
        result can change at any time: callers that act on it must own the claim of the VF.
        """
        return vf in self.held([vf])

    def held(self, vfs: Iterable[PciAddress]) -> dict[PciAddress, int]:
        """Those of some VFs that processes use through VFIO, with the process IDs: `in_use()` for all of them at once.

        Walks through the processes once, and not at all where no VF is bound to a VFIO driver.
        """
        nodes = {node: vf for vf in vfs if self.is_vfio(self.driver(vf)) for node in self._vfio_nodes(vf)}
        return {nodes[node]: pid for node, pid in self._holders(nodes).items()}

    def may_be_open(self, vf: PciAddress) -> bool:
        """Whether a process may have opened a VF that is bound to a VFIO driver; cheap, without looking at processes.

        A VFIO driver enables a device when it is opened and disables it when it is closed (vfio_pci_core_enable() and
        vfio_pci_core_disable() in the kernel's drivers/vfio/pci/vfio_pci_core.c), and sysfs shows how often a device is
        enabled. True where it does not, and where another has enabled the device.
        """
        try:
            return read_text(self._file(vf, "enable")) != "0"
        except HostError:
            return True

    def users(self, pf: PciAddress) -> dict[PciAddress, int]:
        """The VFs of a PF that processes use through VFIO, with the process IDs."""
        return self.held(self.vfs(pf))

    def user_of(self, pid: int) -> str:
        """What messages call a process of `held()`: the guest that it runs, or the process."""
        try:
            # the kernel reads it from the process's memory, whose lock a process that hangs may hold
            guest = bounded(f"read the command line of process {pid}", lambda: guest_of(pid, proc=self._proc))
        except HostError:
            guest = None
        return f"guest '{guest}'" if guest is not None else f"process {pid}"

    def vfio_nodes(self, vf: PciAddress) -> VfioNodes:
        """The device nodes by which a VF that is bound to a VFIO driver can be opened."""
        group = link_name(self._file(vf, "iommu_group"))
        devices = names(self._file(vf, "vfio-dev"))
        return VfioNodes(
            group=f"vfio/{group}" if group is not None else None,
            device=f"vfio/devices/{devices[0]}" if devices else None,
        )

    def driver_identity(self, driver: str) -> Optional[int]:
        """A number that changes when a driver is loaded again, perhaps another build of it; None without the driver."""
        try:
            return (self._drivers / driver).stat().st_ino
        except ABSENT:
            return None
        except OSError as error:
            raise failed(f"see whether driver {driver} is loaded", error) from None

    # -- SR-IOV

    def set_autoprobe(self, pf: PciAddress, on: bool) -> None:
        """Set whether the kernel binds new VFs of the PF to drivers by itself."""
        write_text(self._file(pf, "sriov_drivers_autoprobe"), str(int(on)))
        if self.autoprobe(pf) != on:
            raise HostError(f"sriov_drivers_autoprobe of PF {pf} is not {int(on)} after it was written")

    def announce_change(self, device: PciAddress) -> None:
        """Have udev look again at a device and its network devices (their `uevent` files)."""
        locks.may_take_long("writes to sysfs")
        for file in (
            self._file(device, "uevent"),
            *(self._file(device, f"net/{name}/uevent") for name in self.netdevs(device)),
        ):
            with suppress(HostError):  # it has just gone
                write_text(file, "change")

    def set_numvfs(self, pf: PciAddress, count: int) -> None:
        """Create `count` VFs on a PF, if it has another number.

        The kernel changes a number only by way of 0, and 0 removes VFs also from guests that use them. So both are
        refused here while a guest has one.
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
                    f"PF {pf} has {present} VFs; their number can change to {count} only through 0",
                    "set 0 first",
                )
        if self.driver(pf) is None:
            raise HostError(f"PF {pf} has no driver, so it can have no VFs", "bind it to its host driver")
        write_text(self._file(pf, "sriov_numvfs"), str(count), _NUMVFS_REMEDIES)
        present = self.numvfs(pf)
        if present != count:
            raise HostError(f"PF {pf} has {present} VFs after sriov_numvfs was set to {count}", "see dmesg")

    def set_msix_count(self, vf: PciAddress, count: int) -> None:
        """Set the number of MSI-X vectors of a VF without a driver, if it has another one."""
        if self.msix_count(vf) == count:
            return
        path = self._file(vf, "sriov_vf_msix_count")
        if not exists(path):
            raise HostError(
                f"the MSI-X count of VF {vf} cannot be set: its PF's driver or this kernel does not support it",
                "remove msix from the pool, and set the same vfs on all hosts",
            )
        write_text(path, str(count))
        present = self.msix_count(vf)
        if present != count:
            raise HostError(f"VF {vf} has {present} MSI-X vectors after {count} were set", "see dmesg")

    # -- inside

    def _driver_of(self, module: str) -> str:
        """The driver of a module: from sysfs when the module is loaded, else its name, with one known exception."""
        for name in names(self._root / "module" / module / "drivers"):
            if name.startswith("pci:"):
                return name[4:]
        return GENERIC_DRIVER if module == "vfio_pci" else module

    def _vfio_nodes(self, vf: PciAddress) -> list[str]:
        """The device nodes by which a process can use a VF: that of its group, and since Linux 6.6 its own."""
        group = link_name(self._file(vf, "iommu_group"))
        # Text, not Path: see _file()
        nodes = [f"{self._dev}/vfio/devices/{name}" for name in names(self._file(vf, "vfio-dev"))]
        if group is not None:
            nodes += [f"{self._dev}/vfio/{group}", f"{self._dev}/vfio/noiommu-{group}"]
        return nodes

    def _holders(self, nodes: Collection[str]) -> dict[str, int]:
        if not nodes:
            return {}
        return bounded(
            "read which files processes have open",
            lambda: holders(nodes, proc=self._proc, own=self._own),
        )

    def _refuse_if_held(self, pf: PciAddress, count: int) -> None:
        held = self.users(pf)
        if held:
            users = ", ".join(sorted({f"{vf} by {self.user_of(pid)}" for vf, pid in held.items()}))
            raise HostError(
                f"cannot set sriov_numvfs of PF {pf} to {count}, its VFs are in use: {users}",
                "migrate those guests to another host",
            )

    def _binding_lock(self, device: PciAddress) -> threading.Lock:
        """Two threads that bind one device would reset each other's driver_override.

        One lock for each device is enough, as in the kernel: an override is the device's own, and what is written to
        `drivers_probe` and `unbind` takes that device's lock alone (drivers/base/bus.c; no parent's, which is for USB).
        So a VF whose unbinding waits for a guest delays no other.
        """
        return self._binding.setdefault(device, threading.Lock())  # one step for all threads

    @contextmanager
    def _overridden(self, device: PciAddress, driver: str) -> Iterator[None]:
        """Allow only `driver` to bind to a device meanwhile."""
        path = self._file(device, "driver_override")
        write_text(path, driver)
        try:
            yield
        except HostError:
            # the first error is more useful
            with suppress(HostError), deadline.at_least(_RESET_SECONDS):
                write_text(path, "\n")
            raise
        write_text(path, "\n")

    def _unbind(self, device: PciAddress) -> None:
        driver = self.driver(device)
        if driver is None:
            return
        try:
            write_text(self._drivers / driver / "unbind", str(device))
        except HostError:
            # libvirt or an administrator can have unbound it meanwhile.
            if self.driver(device) is not None:
                raise
        bound = self.driver(device)
        if bound is not None:
            raise HostError(
                f"{device} is bound to {bound} after {driver} was unbound", "see which program binds it"
            )
