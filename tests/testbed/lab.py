# SPDX-License-Identifier: GPL-2.0-or-later
"""Both hosts of a run with the product on them, and what scenarios do with them."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar
from xml.etree import ElementTree

from tests.patience import PATIENCE
from tests.testbed import booted, cache, diagnosis, fabric, facts, product, provision, report, terminal
from tests.testbed.guest import Guest
from tests.testbed.host import Host, HostError, HostTimeoutError, Result, lay_out_guest, prepare_run
from tests.testbed.namespace import RUN
from tests.testbed.timeline import clock_offset

GUEST_BOOT_S = 240 * PATIENCE
# A guest into which a VF is plugged has been seen to do nothing else for 75 s.
LIFE_S = 150 * PATIENCE
MIGRATION_S = 120
SETTLE_S = 15 * PATIENCE

# Exists while the hosts are not as they were provisioned; says why.
CHANGED = RUN / "changed"

Told = TypeVar("Told")


@dataclass(frozen=True)
class Migration:
    """A migration as virsh on the source reported it.

    It began at `began`, seconds of this machine's clock, and took `took_ms` by virsh's own timing, which
    leaves out the start of virsh itself. `downtime_ms` is libvirt's figure.
    """

    result: Result
    began: float
    took_ms: float
    downtime_ms: Optional[float]


class Lab:
    """Both hosts, up and provisioned."""

    def __init__(self) -> None:
        self.a = Host("a", 1)
        self.b = Host("b", 2)
        #: runs on A when a scenario ends, for the next one to find it
        self.staying: Optional[Guest] = None

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both hosts."""
        return (self.a, self.b)

    def on_both(self, action: Callable[[Host], Told]) -> list[Told]:
        """Do the same on both hosts at the same time; returns what it returned, of A and of B."""
        with ThreadPoolExecutor() as lanes:
            return list(lanes.map(action, self.hosts))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of both hosts."""
        return tuple(host.name for host in self.hosts)

    def resume(self) -> None:
        """Start both hosts from their saved state, without the product."""
        self.on_both(booted.resume)
        self.on_both(Host.take_guest)

    def install(self) -> None:
        """Install the product on both hosts and provision them."""
        with terminal.step("vfmigrate is installed from its packages"):
            self.on_both(product.install)
        with terminal.step("cards, switch and libvirt network are provisioned"):
            self.on_both(provision.provision)

    def restore(self, why: str) -> None:
        """Bring hosts and switch back to how they were at first, whatever state they are in. Raises HostError."""
        self.note_changes(why)
        terminal.console.print()
        with terminal.step(f"hosts and switch return to the saved state: {why}"):
            for host in self.hosts:
                host.stop()
                host.hang_up()
            fabric.reset(self.names)
            self.resume()
        self.install()
        self.note_changes("")

    def note_changes(self, why: str) -> None:
        """Note why the hosts are not as they were provisioned, for a later run on hosts that stay up."""
        if why:
            CHANGED.write_text(why)
        else:
            CHANGED.unlink(missing_ok=True)

    def versions(self) -> dict[str, str]:
        """The versions that the results hold for."""
        with ThreadPoolExecutor() as lanes:
            installed = lanes.submit(product.version, self.b)
            text = self.a.run("virsh version; uname -r; ovs-vsctl --version | head -n 1")
        found = re.search(
            r"libvirt (\S+)\n.*Running hypervisor: QEMU (\S+)\n\s*(\S+)\n.* (\S+)\s*$", text, re.DOTALL
        )
        if not found:
            raise HostError(f"host-a: the output with the versions is not understood: {text.strip()}")
        names = ("libvirt", "QEMU", "kernel", "OVS")
        return {**dict(zip(names, found.groups())), "vfmigrate": installed.result()}

    def look(self) -> dict[str, facts.Facts]:
        """The facts of both hosts."""
        return dict(zip((host.name for host in self.hosts), self.on_both(facts.look)))

    def create_guest(self, host: Host, guest: Guest, paused: bool = False) -> None:
        """Create a guest on a host, and do not wait for its userland."""
        guest.console.unlink(missing_ok=True)
        host.write(f"/root/{guest.name}.xml", guest.xml())
        host.run(f"virsh create {'--paused ' if paused else ''}/root/{guest.name}.xml", timeout=GUEST_BOOT_S)

    def await_boot(self, guest: Guest) -> None:
        """Wait until a guest's userland runs."""
        self.await_life(guest, GUEST_BOOT_S)

    def find_guest(self, guest: Guest) -> None:
        """Have a guest run on host A: the scenario before may have left it there."""
        if self.running(guest, self.a):
            self.await_life(guest, GUEST_BOOT_S)
        else:
            self.start_guest(self.a, guest)

    def leave(self, guest: Guest) -> None:
        """End a guest, unless the next scenario wants to find it."""
        if guest != self.staying:
            self.destroy(guest)

    def start_guest(self, host: Host, guest: Guest, paused: bool = False) -> None:
        """Start a guest on a host; unless it is to stay paused, wait until its userland runs."""
        self.create_guest(host, guest, paused)
        if not paused:
            self.await_boot(guest)

    def await_life(self, guest: Guest, timeout: float = LIFE_S) -> None:
        """Wait for another tick on the guest's console. Raises HostTimeoutError."""
        ticks = guest.ticks()
        deadline = time.monotonic() + timeout
        while guest.ticks() <= ticks:
            if time.monotonic() > deadline:
                raise HostTimeoutError(f"guest {guest.name} shows no life for {timeout:.0f} s on its console")
            time.sleep(0.1)

    def migrate(
        self, guest: Guest, source: Host, destination: Host, *options: str, timeout: float = MIGRATION_S
    ) -> Migration:
        """A plain `virsh migrate --live`, as an administrator types it, or with further options.

        Raises subprocess.TimeoutExpired when it has not ended within `timeout` seconds.
        """
        words = ("migrate", "--live", *options, guest.name, f"qemu+tcp://{destination.hostname}/system")
        command = f"virsh --timing {shlex.join(words)}"
        offset = clock_offset(source)
        result = source.result(f"date +%s.%N; exec {command}", timeout)
        told = re.match(r"(\d+\.\d+)\n.*\(Time: (\d+\.\d+) ms\)", result.stdout, re.DOTALL)
        if not told:
            raise HostError(f"{source.hostname} did not run virsh migrate: {result.stderr.strip()}")
        downtime = self.downtime(guest, destination) if result.status == 0 else None
        return Migration(result, float(told.group(1)) - offset, float(told.group(2)), downtime)

    def downtime(self, guest: Guest, host: Host) -> Optional[float]:
        """Libvirt's own figure of the last migration's downtime, in ms."""
        text = host.run(f"virsh domjobinfo {guest.name} --completed")
        found = re.search(r"^Total downtime:\s+(\d+)\s+ms", text, re.MULTILINE)
        return float(found.group(1)) if found else None

    def vf_addresses(self, guest: Guest, host: Host) -> dict[str, str]:
        """The host addresses of a running guest's VFs, by MAC, from libvirt."""
        return vf_addresses(host.run(f"virsh dumpxml {guest.name}"))

    def running(self, guest: Guest, host: Host) -> bool:
        """Whether the guest runs (or is paused) on a host."""
        return guest.name in host.run("virsh list --name").split()

    def where(self, guest: Guest) -> set[Host]:
        """The hosts on which the guest runs (or is paused)."""
        runs = self.on_both(lambda host: self.running(guest, host))
        return {host for host, running in zip(self.hosts, runs) if running}

    def claimed(self, host: Host) -> bool:
        """Whether there is a claim on a host, at the latest once its daemon had time to adopt what runs."""
        deadline = time.monotonic() + SETTLE_S
        while not facts.look(host).claims:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return True

    def destroy(self, guest: Guest) -> None:
        """End a guest wherever it is."""
        for host in self.where(guest):
            host.run(f"virsh destroy {guest.name}")

    def settle(self, before: dict[str, facts.Facts]) -> dict[str, facts.LeftBehind]:
        """What differs from `before` on each host, once it does not change for the better any more.

        The VFs of a guest that stays are left out.
        """
        deadline = time.monotonic() + SETTLE_S
        while True:
            after = self.look()
            if self.staying is not None and self.running(self.staying, self.a):
                its = self.vf_addresses(self.staying, self.a).values()
                before, after = (
                    {**each, self.a.name: each[self.a.name].without(its)} for each in (before, after)
                )
            changed = {name: facts.left_behind(before[name], after[name]) for name in before}
            if all(map(facts.is_clean, changed.values())) or time.monotonic() > deadline:
                return changed
            time.sleep(0.3)


def vf_addresses(domain: str) -> dict[str, str]:
    """PCI addresses of the VFs in a domain's XML, by MAC."""
    found = {}
    for interface in ElementTree.fromstring(domain).iter("interface"):
        mac = interface.find("mac")
        address = interface.find("source/address")
        if interface.get("type") == "hostdev" and mac is not None and address is not None:
            parts = [int(address.get(key, "0"), 16) for key in ("domain", "bus", "slot", "function")]
            found[mac.get("address", "")] = "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)
    return found


@contextmanager
def hosts_up(install: bool = True) -> Iterator[Lab]:
    """Both hosts, with the product and provisioned unless `install` is false; they are switched off afterwards."""
    lab = Lab()
    if not cache.try_lock("testbed"):
        with terminal.step("another run uses this machine's processors; waiting until it ends"):
            cache.await_lock("testbed")
    prepare_run()
    fabric.build(lab.names)
    try:
        with terminal.step("two hosts start from their saved state"), ThreadPoolExecutor() as lanes:
            staged = lanes.submit(product.stage) if install else None
            lab.resume()
            if staged is not None:
                staged.result()
        if install:
            lab.install()
        yield lab
    except Exception:
        diagnosis.save_consoles(report.BUILD / "boot")
        raise
    finally:
        for host in lab.hosts:
            host.stop()


def hosts_here() -> Lab:
    """The hosts that are up in these namespaces, with the product and the guest of this clone put on them.

    They are restored first when a scenario left them changed.
    """
    lab = Lab()
    lay_out_guest()
    product.stage()
    if CHANGED.exists():
        lab.restore(CHANGED.read_text())
        return lab
    with terminal.step("vfmigrate of this clone is installed on the running hosts"):
        lab.on_both(Host.take_guest)
        lab.on_both(product.replace)
        lab.on_both(provision.provision)
    return lab
