# SPDX-License-Identifier: GPL-2.0-or-later
"""A test host: a virtual machine with an emulated SR-IOV card, reached by ssh over the management network."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.patience import PATIENCE
from tests.testbed import cache, fabric, guest, images, kernel
from tests.testbed.namespace import RUN
from tests.testbed.root import host_root
from tests.testbed.run import CommandError, brief, run

BOOT_S = 600
BOOT_TIMEOUT_S = BOOT_S * PATIENCE
# A host that boots uses its processor all the time; one that has used less than IDLE_PROCESSOR_S in IDLE_S hangs. It
# takes 30 to 120 s, depending on what else the machine does; none has been seen to take RESET_AFTER_S.
IDLE_S, IDLE_PROCESSOR_S = 45, 1.5
RESET_AFTER_S = 300 * PATIENCE
POWER_OFF_TIMEOUT_S = 90 * PATIENCE
# The memory of a host is gigabytes; on a busy machine the kernel takes a while to free it.
END_S = 60
COMMAND_TIMEOUT_S = 60
MEMORY_MIB = 2048

# Without the features for which kernel and C library copy and clear memory by single instructions: the emulator goes
# through those byte by byte, six to ten times slower than through a loop. And without supervisor mode access
# prevention, for which it looks up addresses again at each copy between kernel and user space.
PROCESSOR = "max,-erms,-fsrm,-fzrm,-fsrs,-smap"

# The physical function of the card, as the host sees it: behind the first root port.
PF = "0000:01:00.0"

# libvirt asks each QEMU what it can do when it is first used: seconds here, which no scenario should pay.
CAPABILITIES = """
virsh domcapabilities --virttype qemu --machine q35 > /dev/null
virsh capabilities > /dev/null
virsh version
"""

# Where the hosts' QEMU finds the run's directory and the cache, inside the root it is started from.
INSIDE_RUN = Path("/mnt")
INSIDE_CACHE = Path("/srv")

SSH_CONFIG = """\
Host host-*
    User root
    IdentityFile {key}
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    ControlMaster auto
    ControlPath {run}/ssh-%h
    ControlPersist yes
    ServerAliveInterval 0
"""


class HostError(Exception):
    """A test host does not come up or does not do what it must."""


class HostTimeoutError(HostError):
    """A host, or a guest on it, did not do in time what was waited for."""


@dataclass(frozen=True)
class Result:
    """How a command on a host ended, and what it printed."""

    status: int
    stdout: str
    stderr: str
    seconds: float


def prepare_run() -> None:
    """Lay out the run's directory and the root that QEMU runs in. Call once, inside the run's namespaces."""
    (RUN / "shared").mkdir()
    (RUN / "tmp").mkdir()
    lay_out_guest()
    key = RUN / "id"
    shutil.copy(images.ssh_key() / "id", key)
    key.chmod(0o600)
    hosts = "".join(
        f"Host host-{name}\n    HostName {fabric.management_address(number)}\n"
        for name, number in (("a", 1), ("b", 2))
    )
    (RUN / "ssh.config").write_text(hosts + SSH_CONFIG.format(key=key, run=RUN))
    root = host_root()
    run("mount", "--rbind", "/dev", root / "dev")
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--bind", cache.directory(), f"{root}{INSIDE_CACHE}")
    run("mount", "--bind", RUN, f"{root}{INSIDE_RUN}")


def lay_out_guest() -> None:
    """Put what guests boot where the hosts find it; each takes it with Host.take_guest()."""
    shutil.copy(kernel.guest_kernel(), RUN / "shared" / "guest-kernel")
    shutil.copy(images.guest_initrd(), RUN / "shared" / "guest-initrd")


class Host:
    """One host, `name` being "a" or "b"."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address = fabric.management_address(number)
        self.hostname = f"host-{name}"
        self.console = RUN / f"{self.hostname}.console"
        self.monitor = RUN / f"{self.hostname}.monitor"
        # QEMU writes its pid here: hosts that stay up were started by another process than the one that runs scenarios.
        self.pidfile = RUN / f"{self.hostname}.pid"
        # Guests of this host write their consoles here; the host sees it as /testbed/<hostname>.
        self.shared = RUN / "shared" / self.hostname
        self.process: Optional[subprocess.Popen[bytes]] = None

    def start(self, drive: str, *more: str) -> None:
        """Start the virtual machine with this disk and further arguments of QEMU's; await_boot() waits for it."""
        self.shared.mkdir(exist_ok=True)
        log = (RUN / f"{self.hostname}.qemu").open("wb")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": f"{INSIDE_RUN}/tmp"}
        self.process = subprocess.Popen(
            [
                *("chroot", str(host_root()), "qemu-system-x86_64", *self.machine(drive)),
                *("-pidfile", str(INSIDE_RUN / self.pidfile.name), *more),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # a Ctrl-C at the terminal is for the runner, which then ends the hosts in order
            start_new_session=True,
        )
        log.close()

    def machine(self, drive: str) -> list[str]:
        """QEMU's arguments for the machine, its kernel, its disk and its NICs."""
        image = INSIDE_CACHE / images.host_image().name
        command_line = (
            "console=ttyS0 quiet loglevel=4 intel_iommu=on iommu=pt "
            "mitigations=off nokaslr audit=0 ipv6.disable=1 no5lvl "
            # A timer that fires again and again: of those that fire once, the emulator loses one now and then, and the
            # kernel waits for it for ever.
            "nohz=off highres=off "
            f"systemd.hostname={self.hostname} systemd.show_status=0"
        )
        return [
            *("-name", self.hostname, "-nodefaults", "-no-user-config", "-display", "none"),
            # Both processors in one thread. With a thread for each, QEMU 10.0 at times looks an address up in a memory
            # map that another thread has just replaced, which happens whenever VFs come or go. Then it ends
            # ("iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed"), or the access goes to another
            # device and, say, a timer is lost.
            *("-machine", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", PROCESSOR),
            *("-smp", "2", "-m", str(MEMORY_MIB)),
            *("-uuid", f"7f000000-0000-4000-8000-00000000000{self.number}"),
            *("-device", "intel-iommu,intremap=on"),
            *("-kernel", str(INSIDE_CACHE / kernel.host_kernel().name / "vmlinux")),
            *("-initrd", str(image / "initrd"), "-append", command_line),
            *("-serial", f"file:{INSIDE_RUN / self.console.name}"),
            *("-no-shutdown", "-monitor", f"unix:{INSIDE_RUN / self.monitor.name},server=on,wait=off"),
            *("-drive", f"{drive},if=none,id=disk"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
            *("-fsdev", f"local,id=shared,path={INSIDE_RUN / 'shared'},security_model=none"),
            *("-device", "virtio-9p-pci,fsdev=shared,mount_tag=testbed"),
            *self.network(),
        ]

    def network(self) -> list[str]:
        """QEMU's arguments for the NICs: management, uplink, and the card with its wire cabled to a NIC of the host.

        igb needs a root port of its own for its virtual functions to get addresses; it must be the first.
        """
        ports = fabric.host_ports(self.name)
        mac = f"52:54:00:aa:%s:0{self.number}"
        virtio = "virtio-net-pci,romfile=,netdev=%s,mac=" + mac
        tap = "tap,id=%s,ifname=%s,script=no,downscript=no"
        return [
            *("-device", "pcie-root-port,id=slot1,chassis=1,slot=1"),
            *("-netdev", "hubport,id=card,hubid=0", "-device", f"igb,bus=slot1,netdev=card,mac={mac % '03'}"),
            *("-netdev", "hubport,id=wire,hubid=0", "-device", virtio % ("wire", "04")),
            *("-netdev", tap % ("mgmt", ports.management), "-device", virtio % ("mgmt", "01")),
            *("-netdev", tap % ("uplink", ports.uplink), "-device", virtio % ("uplink", "05")),
        ]

    def await_boot(self) -> None:
        """Wait until the host lets us in and its services run. Raises HostError with the console's last lines."""
        self.await_greeting()
        self.run("systemctl start openvswitch-switch.service libvirtd.service", timeout=BOOT_S)
        self.run(CAPABILITIES, timeout=BOOT_S)

    def await_greeting(self) -> None:
        """Wait until the host lets us in. Raises HostError with the console's last lines."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        reset_at = time.monotonic() + RESET_AFTER_S
        looked_at, used = time.monotonic(), self.processor_time()
        while not self.greets():
            now = time.monotonic()
            idle = False
            if now > looked_at + IDLE_S:
                idle = self.processor_time() - used < IDLE_PROCESSOR_S
                looked_at, used = now, self.processor_time()
            if idle or now > reset_at:
                # Now and then the emulator loses a processor's timer, and the kernel waits for it for ever.
                self.ask_monitor("system_reset")
                reset_at = now + RESET_AFTER_S
            if self.process is None or self.process.poll() is not None:
                raise HostError(f"{self.hostname}: QEMU ended: {self.qemu_words()}")
            if time.monotonic() > deadline:
                raise HostTimeoutError(
                    f"{self.hostname} did not come up in {BOOT_TIMEOUT_S:.0f} s: {self.last_words()}"
                )
            time.sleep(0.2)

    def processor_time(self) -> float:
        """Seconds of a processor that the virtual machine has used (proc(5))."""
        if self.process is None:
            return 0.0
        try:
            words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def power_off(self) -> None:
        """Shut the host down as an administrator does, and wait until its power is off; its disk is kept."""
        self.result("systemctl poweroff")
        self.hang_up()
        deadline = time.monotonic() + POWER_OFF_TIMEOUT_S
        while "paused (shutdown)" not in self.ask_monitor("info status"):
            if time.monotonic() > deadline:
                raise HostTimeoutError(
                    f"{self.hostname} did not power off in {POWER_OFF_TIMEOUT_S:.0f} s: {self.last_words()}"
                )
            time.sleep(0.2)

    def reboot(self) -> None:
        """Reboot the host as an administrator does. Does not wait for anything."""
        self.result("systemctl reboot")
        self.hang_up()

    def hang_up(self) -> None:
        """Give up the connection that commands share, which nobody answers on any more."""
        command = ["ssh", "-F", str(RUN / "ssh.config"), "-O", "exit", self.hostname]
        subprocess.run(command, capture_output=True, check=False)

    def power_on(self) -> None:
        """Switch a host on that is off. Does not wait for anything."""
        self.ask_monitor("system_reset")
        self.ask_monitor("cont")

    def ask_monitor(self, command: str) -> str:
        """Give QEMU's monitor a command; returns what it says."""
        prompt = b"(qemu) "
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
            monitor.settimeout(10)
            monitor.connect(str(self.monitor))
            read_to(monitor, prompt)
            monitor.sendall(f"{command}\n".encode())
            return read_to(monitor, prompt).decode(errors="replace")

    def greets(self) -> bool:
        """Whether the host's ssh server answers."""
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                connection.settimeout(3)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def qemu_words(self) -> str:
        """What the host's QEMU complained about."""
        return (RUN / f"{self.hostname}.qemu").read_text(errors="replace").strip() or "it said nothing"

    def last_words(self) -> str:
        """The last lines of the host's console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return " / ".join(text.strip().splitlines()[-3:]) or "its console is silent"

    def result(self, script: str, timeout: float = COMMAND_TIMEOUT_S, stdin: bytes = b"") -> Result:
        """Run a shell script on the host and say how it ended.

        Raises subprocess.TimeoutExpired after `timeout` seconds, more where PATIENCE is asked for.
        """
        begun = time.monotonic()
        try:
            done = subprocess.run(
                ["ssh", "-F", RUN / "ssh.config", self.hostname, script],
                input=stdin,
                capture_output=True,
                timeout=timeout * PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            error.cmd = f"{self.hostname}: {brief([script])}"
            raise
        return Result(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            time.monotonic() - begun,
        )

    def run(self, script: str, timeout: float = COMMAND_TIMEOUT_S, stdin: bytes = b"") -> str:
        """Run a shell script on the host; returns its standard output. Raises CommandError when it fails."""
        result = self.result(script, timeout, stdin)
        if result.status != 0:
            raise CommandError(
                f"{self.hostname}: {brief([script])}", result.status, result.stdout + result.stderr
            )
        return result.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file on the host."""
        self.run(f"cat > {shlex.quote(path)}", stdin=text.encode())

    def take_guest(self) -> None:
        """Copy what guests boot to the host's disk: each QEMU reads it, and the shared directory is slow to read."""
        self.run(f"mkdir -p {guest.FILES}; cp /testbed/guest-kernel /testbed/guest-initrd {guest.FILES}")

    def stop(self) -> None:
        """End the virtual machine, whoever started it; its memory and its disk are lost."""
        pid = self.pid()
        if pid is not None:
            end(pid)
        if self.process is not None:
            self.process.wait()
        self.process = None
        self.pidfile.unlink(missing_ok=True)

    def pid(self) -> Optional[int]:
        """The process of the host's QEMU, while it runs."""
        if self.process is not None:
            return self.process.pid if self.process.poll() is None else None
        try:
            pid = int(self.pidfile.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if self.hostname.encode() in words else None


def end(pid: int) -> None:
    """End a process and wait until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        while time.monotonic() < deadline:
            if ended(pid):
                return
            time.sleep(0.05)
    raise HostError(f"process {pid} cannot be ended")


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to notice (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def read_to(connection: socket.socket, end: bytes) -> bytes:
    """What comes over a connection up to and with `end`. Raises OSError when that does not come."""
    read = b""
    while not read.endswith(end):
        part = connection.recv(4096)
        if not part:
            raise OSError(f"the connection was closed after {read!r}")
        read += part
    return read
