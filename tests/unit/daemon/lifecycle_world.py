# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with a daemon that can die, and a libvirt that runs guests; `lifecycle_invariants` has what must hold.

The libvirt here does what the real one does around its hooks: it binds VFs, sets MACs, and resets them when a guest
ends, unless it is itself killed. What it does is never undone by the daemon while a guest runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, TypeVar

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.mortal import Killed, MortalFiles, MortalHost
from tests.fakes.rig import PF
from tests.unit.daemon.lifecycle_invariants import VARIANT, Invariants
from tests.unit.daemon.sync_rig import MemoryHypervisor, SyncRig
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.domain import domain_xml
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.errors import HostError, VfmigrateError
from vfmigrate.host.devlink_messages import Port
from vfmigrate.model.mac import NO_MAC
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.strategy import STRATEGIES
from vfmigrate.reservations.client_requests import ClaimRequest

VFS = 3
_POOL = Pool("data", (PF,), "br-data", vlans=frozenset({42, 43}), mtu=9000, announce=False)
#: longer than a claim is left alone because it is young
GRACE = 20.0

_T = TypeVar("_T")


class DownError(Exception):
    """The daemon is dead, or died while it was asked."""


#: how a guest has its VFs: libvirt binds them and sets their MACs; sets the MACs only; binds them only
INTERFACE, UNMANAGED, PLAIN = "interface", "unmanaged", "plain"
FORMS = (INTERFACE, UNMANAGED, PLAIN)

#: how a guest ends: as it should; libvirt does not reset its VFs, as when that fails; libvirtd is killed, calls no hook
#: and resets nothing; the same, and QEMU, which cannot be killed, still holds the VFs
CLEAN, NOT_RESET, FORGOTTEN, LINGERING = "clean", "not reset", "forgotten", "lingering"
ENDINGS = (CLEAN, NOT_RESET, FORGOTTEN, LINGERING)


@dataclass(frozen=True)
class Running:
    """A guest that runs, and what libvirt did with its VFs."""

    xml: str
    vfs: tuple[PciAddress, ...]
    form: str = INTERFACE


class World:
    """The host; every method is one thing that happens. `kill` is the number of writes after which the daemon dies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.config = Config({"data": _POOL})
        self.host = MortalHost(vfs=VFS)
        self.vfs = self.host.vfs
        self.libvirt = MemoryHypervisor()
        self.running: dict[int, Running] = {}
        #: VFs on which something was left that no claim explains
        self.touched: set[PciAddress] = set()
        #: VFs of guests of whose end the daemon does not know
        self._forgotten: dict[int, tuple[PciAddress, ...]] = {}
        #: VFs of a QEMU that cannot be killed
        self.lingering: set[PciAddress] = set()
        #: VFs that the host itself uses
        self.hosts_own: set[PciAddress] = set()
        self.now = 1000.0
        self.daemon: Optional[SyncRig] = None
        self._disk_fault: Optional[tuple[int, Optional[str]]] = None
        self.invariants = Invariants(self)
        self.start_daemon()

    # -- the daemon

    def start_daemon(self) -> None:
        """Start the daemon, if it does not run: a new object graph on the same directory."""
        if self.daemon is not None:
            return
        made: list[MortalFiles] = []

        def files(directory: Path) -> MortalFiles:
            made.append(MortalFiles(directory, self.host.fate))
            return made[0]

        def make_store(directory: Path, clock: Callable[[], float]) -> ClaimStore:
            return ClaimStore(directory, clock, files=files)

        self.daemon = SyncRig(
            self._directory, self.host, self.config, libvirt=self.libvirt, make_store=make_store
        )
        self.files = made[0]
        self._break_disk()
        self.daemon.now = self.now
        assert self.daemon.store.broken == []
        self.daemon.reconciler.finish_releases()

    def kill_daemon(self) -> None:
        """SIGKILL."""
        if self.daemon is not None:
            self.daemon.close()
            self.daemon = None

    def ask(self, work: Callable[[SyncRig], _T], kill: Optional[int] = None) -> _T:
        """Have the daemon do something; raises DownError when it is dead or dies, else what it raises."""
        if self.daemon is None:
            raise DownError
        try:
            with self.host.fate.until(kill):
                return work(self.daemon)
        except Killed:
            self.kill_daemon()
            raise DownError from None

    def hook(self, operation: str, xml: str, kill: Optional[int] = None) -> Optional[str]:
        """Call the hook. Raises as `ask`."""
        return self.ask(lambda daemon: daemon.call(operation, xml), kill)

    def attempt(self, work: Callable[[SyncRig], object], kill: Optional[int] = None) -> bool:
        """As `ask`; whether it was done."""
        try:
            self.ask(work, kill)
        except (DownError, VfmigrateError):
            return False
        return True

    def reconcile(self, kill: Optional[int] = None) -> bool:
        """Reconcile; whether the daemon lived through it."""
        return self.attempt(lambda daemon: daemon.reconciler.reconcile(), kill)

    def pass_time(self, seconds: float) -> None:
        """The clock of the claims goes on."""
        self.now += seconds
        if self.daemon is not None:
            self.daemon.now = self.now

    def fail_disk(self, number: int, name: Optional[str]) -> None:
        """Writing and removing claims fails, of one VF or of all."""
        self._disk_fault = number, name
        self._break_disk()

    def _break_disk(self) -> None:
        if self._disk_fault is not None:
            self.files.fail(*self._disk_fault)

    def heal(self) -> None:
        """Disk, switch and libvirt work, and every QEMU has ended that was to end."""
        self.host.sysfs.open_groups.difference_update(map(str, self.lingering))
        self.lingering.clear()
        self._disk_fault = None
        self.files.heal()
        self.host.ovs.down = False
        self.libvirt.domains = {str(_uuid(one.xml)): one.xml for one in self.running.values()}

    # -- guests

    def boot(self, number: int, vfs: Iterable[PciAddress], *, form: str, kills: list[Optional[int]]) -> None:
        """A guest whose XML names these VFs starts, if it does not run."""
        if number not in self.running:
            self._boot(number, _xml(number, vfs, form), form, kills)

    def arrive(self, number: int, count: int, *, form: str, begins: bool, kills: list[Optional[int]]) -> None:
        """A guest with this many VFs migrates here; where it does not begin, libvirt has given up without a hook."""
        if number in self.running:
            return
        elsewhere = [replace(ELSEWHERE, function=ELSEWHERE.function + index) for index in range(count)]
        try:
            xml = self.hook("migrate", _xml(number, elsewhere, form), kills[0])
        except (DownError, VfmigrateError):
            return
        assert xml is not None
        if begins:
            self._boot(number, xml, form, kills[1:])

    def boot_on_network(self, number: int, *, reconciles: bool, kills: list[Optional[int]]) -> None:
        """As `boot`, with a VF that libvirt chooses: no hook shows it before libvirt has bound it and set its MAC."""
        free = [vf for vf in self.vfs if self._is_nobodys(vf)]
        if reconciles:
            # one that is not ready would be unbound, to set its flag
            free = [vf for vf in free if self.port(vf).migratable]
        if number not in self.running and free:
            self._boot(
                number, guest(number, free[0]), INTERFACE, kills, reconciles=reconciles, on_network=True
            )

    def claim(self, number: int, kill: Optional[int]) -> None:
        """A client claims a VF for a guest that does not run."""
        if number in self.running:
            return
        uuid, mac = _uuid(guest(number)), f"52:54:00:00:{number:02x}:00"
        wanted = ClaimRequest(uuid, f"guest{number}", mac, STRATEGIES["vfio"], pool="data")
        self.attempt(lambda daemon: daemon.client_requests.claim(wanted), kill)

    def give_back(self, number: int, kill: Optional[int]) -> None:
        """A client gives the VFs of a guest back, of which those that a process holds stay."""
        # The daemon cannot know whether libvirt has finished with them.
        self.touched.update(self._forgotten.pop(number, ()))
        self.attempt(lambda daemon: daemon.client_requests.give_back(_uuid(guest(number))), kill)

    def _boot(
        self,
        number: int,
        xml: str,
        form: str,
        kills: list[Optional[int]],
        *,
        reconciles: bool = False,
        on_network: bool = False,
    ) -> None:
        domain = domain_xml.read(xml)
        vfs = tuple(one.address for one in domain.interfaces if one.address is not None)
        one = Running(xml, vfs, form)
        bound = False
        # The guest runs without these: it may have plugged them out, and libvirt may be at work on them.
        self.touched.update(self._forgotten.pop(number, ()))
        try:
            if not on_network:
                self.hook("prepare", xml, kills[0])
            for interface in domain.interfaces:
                assert interface.address is not None
                self._bind(interface, form)
                bound = True
            if reconciles:
                self.reconcile(kills[0])
            self.hook("start", xml, kills[1])
        except (DownError, VfmigrateError):
            if not self._end(one if bound else replace(one, vfs=()), CLEAN, kills[2:]):
                self._forgotten[number] = vfs
            return
        self.host.sysfs.open_groups.update(map(str, vfs))
        self.running[number] = one
        if self.libvirt.domains is not None:
            self.libvirt.domains[domain.uuid] = xml
        self.attempt(lambda daemon: daemon.call("started", xml), kills[2])

    def _bind(self, interface: VfInterface, form: str) -> None:
        """What libvirt does between `prepare` and `start`."""
        vf = interface.address
        assert vf is not None
        if vf in self.lingering:
            raise HostError("QEMU cannot open the VFIO group: another holds it")
        self._assert_is_nobodys(vf)
        if form != UNMANAGED:
            self.host.sysfs.bind(vf, VARIANT)
            self.host.card.driver_override(str(vf), VARIANT)  # it stays until libvirt unbinds the VF
        assert self.host.sysfs.driver(vf) == VARIANT
        if form != PLAIN:
            self._set_mac(vf, interface.wanted_mac or NO_MAC)

    def end(self, number: int, ending: str, kills: list[Optional[int]]) -> None:
        """A guest ends, if it runs."""
        one = self.running.pop(number, None)
        if one is None:
            return
        if self.libvirt.domains is not None:
            del self.libvirt.domains[_uuid(one.xml)]
        if ending == LINGERING:
            self.lingering.update(one.vfs)
        else:
            self.host.sysfs.open_groups.difference_update(map(str, one.vfs))
        if ending in (FORGOTTEN, LINGERING) or not self._end(one, ending, kills):
            self._forgotten[number] = one.vfs

    def _end(self, one: Running, ending: str, kills: list[Optional[int]]) -> bool:
        """The hooks of an end; whether the daemon lived through the last."""
        stopped = self.attempt(lambda daemon: daemon.call("stopped", one.xml), kills[0])
        if stopped and not self.host.ovs.down:
            # whatever the disk does
            assert _uuid(one.xml) not in {port.external_ids["vm-id"] for port in self.host.ovs.ports.values()}
        for vf in one.vfs if ending == CLEAN else ():
            self._reset(vf, one.form)
        return self.attempt(lambda daemon: daemon.call("release", one.xml), kills[-1])

    def _reset(self, vf: PciAddress, form: str) -> None:
        if form != PLAIN:
            self._set_mac(vf, NO_MAC)
        if form != UNMANAGED:
            self.host.sysfs.unbind(vf)

    def unplug(self, number: int, *, heard: bool, kill: Optional[int]) -> None:
        """The first VF of a running guest is unplugged; libvirt's event is `heard` by the daemon or lost."""
        one = self.running.get(number)
        if one is None or len(one.vfs) < 2 or self.libvirt.domains is None or one.form == PLAIN:
            return
        vf = one.vfs[0]
        self.host.sysfs.open_groups.discard(str(vf))
        self._reset(vf, one.form)
        begin, end = one.xml.index("<interface"), one.xml.index("</interface>") + len("</interface>")
        left = replace(one, xml=one.xml[:begin] + one.xml[end:], vfs=one.vfs[1:])
        self.running[number] = left
        self.libvirt.domains[_uuid(left.xml)] = left.xml
        if heard:
            self.attempt(lambda daemon: daemon.domain_sync.follow(_uuid(left.xml)), kill)

    # -- what others do on the host

    def touch(self, vf: PciAddress, driver: Optional[str]) -> None:
        """An administrator leaves a MAC, driver_override and a driver on a VF that nobody has."""
        if self._is_nobodys(vf):
            self._set_mac(vf, "52:54:00:99:99:99")
            if driver is not None:
                self.host.sysfs.bind(vf, driver)
            self.host.card.driver_override(str(vf), "vfio-pci")
            self.touched.add(vf)

    def use_by_host(self, vf: PciAddress, on: bool) -> None:
        """The host takes a VF that nobody has for itself, or no longer uses it."""
        if on and self._is_nobodys(vf):
            self.host.sysfs.bind(vf, self.host.card.hardware.host_driver)
            self.hosts_own.add(vf)
        elif on or vf not in self.hosts_own:
            return
        for name in self.host.sysfs.netdevs(vf):
            link = self.host.links.find(name)
            assert link is not None
            self.host.links.set_up(link.index, on)
        if not on:
            self.hosts_own.remove(vf)

    def _is_nobodys(self, vf: PciAddress) -> bool:
        claimed = (self._directory / "claims" / f"{vf}.json").exists()
        return not claimed and vf not in self.hosts_own and str(vf) not in self.host.sysfs.open_groups

    def _set_mac(self, vf: PciAddress, mac: str) -> None:
        self.host.devlink.set_port_function(PF, self.port(vf).index, hw_addr=mac)

    def port(self, vf: PciAddress) -> Port:
        """The devlink port of a VF."""
        return self.host.devlink.vf_ports(PF)[self.host.sysfs.vf_index(vf)]

    # -- what must hold

    def _assert_is_nobodys(self, vf: PciAddress) -> None:
        """The daemon let libvirt give a VF to a guest."""
        assert str(vf) not in self.host.sysfs.open_groups, f"{vf} is given to two guests"
        assert vf not in self.hosts_own, f"{vf} is the host's own"
        assert vf in self.vfs


def _xml(number: int, vfs: Iterable[PciAddress], form: str) -> str:
    """A guest with these VFs; the mark of a plain hostdev finds it by its address."""
    xml = guest(number, *vfs)
    if form == UNMANAGED:
        return xml.replace("managed='yes'", "managed='no'")
    if form == INTERFACE:
        return xml
    xml = re.sub(r"<interface[^>]*><mac[^>]*>", "<hostdev mode='subsystem' type='pci' managed='yes'>", xml)
    for index, vf in enumerate(vfs):
        mac = f"mac='52:54:00:00:{number:02x}:{index:02x}'"
        xml = xml.replace(mac, f"{mac} address='{vf}'", 1)
    return xml.replace("</interface>", "</hostdev>")


def _uuid(xml: str) -> str:
    return domain_xml.read(xml).uuid
