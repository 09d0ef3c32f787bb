# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest as a small virtual machine with NetworkManager: a virtio device, and a PCI device that can be hot-plugged.

For tests that need a guest kernel (bonding, PCI hot plug). The machine runs the test hosts' kernel on the guest root,
read-only under an overlay in memory. A hub in QEMU connects its two devices and a third one, which is the outside
network: it is moved to a network namespace of the guest. Commands go over a serial line.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.integration.hosts import ENVIRONMENT, wait_for
from tests.integration.namespaces import Namespace, signal_child
from tests.testbed import apt, cache, images, kernel, root
from tests.testbed.host import PROCESSOR, read_to
from tests.testbed.run import CommandError, brief, run

BOOT_SECONDS = 120.0
MODULES = ("9p", "9pnet_virtio", "overlay", "virtio_net", "e1000e", "bonding", "dummy")
WIRE = "hubport,id={name},hubid=0"
VIRTIO = "virtio-net-pci,romfile=,netdev={name},mac={mac}"
VF = "e1000e,id=vf,romfile=,netdev=vf,bus={port},mac=52:54:00:00:00:02"
VF_MAC = "52:54:00:00:00:02"
STANDBY_MAC = "52:54:00:00:00:03"
OUTSIDE_MAC = "52:54:00:00:00:01"
AGENT = Path(__file__).with_name("guest_agent.py")

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
$b mkdir /lower /memory /sysroot
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro root /lower
$b mount -t tmpfs memory /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work root /sysroot
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro given /sysroot/mnt
for place in proc dev; do $b mount --move /$place /sysroot/$place; done
# Read-only, as in a container: NetworkManager then does not wait for udev.
$b mount -t sysfs -o ro sys /sysroot/sys
$b mount -t tmpfs run /sysroot/run
exec $b switch_root /sysroot /usr/bin/python3 -IS /mnt/guest_agent.py /dev/ttyS1
"""


@functools.cache
def initrd() -> Path:
    """The initramfs with the modules that the machine needs."""
    parts: cache.Parts = [INIT, list(MODULES), kernel.host_kernel().name, root.host_root().name]
    return cache.entry("guest-machine-initrd", parts, _pack)


def _pack(path: Path) -> None:
    release = apt.kernel().abi
    with tempfile.TemporaryDirectory(prefix="vfmigrate-modules-") as name:
        tree = Path(name)
        (tree / "lib/modules").mkdir(parents=True)
        run("cp", "-rs", kernel.host_kernel() / "modules" / release, tree / "lib/modules")
        run("depmod", "-b", tree, release)
        shown = run("modprobe", "-d", tree, "-S", release, "--show-depends", "-a", *MODULES)
        files = [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
        images.pack(path, INIT, [file.resolve() for file in dict.fromkeys(files)])


@dataclass(frozen=True)
class Done:
    """How a command in the guest ended."""

    status: int
    stdout: str
    stderr: str


class GuestMachine:
    """A running guest in a namespace host; it ends with the host."""

    def __init__(self, around: Namespace, place: Path) -> None:
        """Boot in `around`, a namespace host made over the host root in the directory `place`."""
        self._run = Path(f"/proc/{around.pid}/root/run")
        mounting = ("nsenter", f"--target={around.pid}", "--mount", "mount", "--bind")
        run(*mounting, cache.directory(), place / "root/srv")
        (self._run / "given").mkdir()
        (self._run / "given" / AGENT.name).write_text(AGENT.read_text())
        self._qemu = around.spawn(*_command(), env=ENVIRONMENT, log=self._run / "qemu.log")
        self._line = self._connect("agent")
        self._answers = self._line.makefile("r", encoding="utf-8")
        if self._answers.readline() != "ready\n":
            raise RuntimeError(f"the guest did not come up: {self.console()[-2000:]}")

    def _connect(self, name: str) -> socket.socket:
        def accepts() -> bool:
            if self._qemu.poll() is not None:
                raise RuntimeError(f"QEMU ended: {(self._run / 'qemu.log').read_text()}")
            return (self._run / name).exists()

        wait_for(f"QEMU's socket {name}", accepts)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(BOOT_SECONDS)
        connection.connect(os.fspath(self._run / name))
        return connection

    def close(self) -> None:
        """Switch the guest off."""
        self._answers.close()
        self._line.close()
        signal_child(self._qemu, "KILL")
        self._qemu.wait()

    def console(self) -> str:
        """The messages of the guest's kernel."""
        file = self._run / "console"
        return file.read_text(errors="replace") if file.exists() else ""

    def run(self, *words: str, check: bool = True, stdin: str = "") -> Done:
        """Run a command in the guest; raises CommandError on a status other than 0 if `check`."""
        self._line.sendall(json.dumps({"words": words, "stdin": stdin}).encode() + b"\n")
        done = Done(**json.loads(self._answers.readline()))
        if check and done.status != 0:
            raise CommandError(brief(list(words)), done.status, done.stdout + done.stderr)
        return done

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in the guest, with its directories."""
        self.run(
            "sh", "-c", f'mkdir -p "$(dirname {path})" && cat > {path} && chmod {mode} {path}', stdin=text
        )

    def _monitor(self, command: str) -> str:
        with self._connect("monitor") as monitor:
            read_to(monitor, b"(qemu) ")
            monitor.sendall(f"{command}\n".encode())
            return read_to(monitor, b"(qemu) ").decode(errors="replace")

    def plug_vf(self, port: str = "port1") -> None:
        """Plug in the device that acts as the VF; its MAC is always the same."""
        self._monitor(f"device_add {VF.format(port=port)}")

    def unplug_vf(self) -> None:
        """Ask the guest to release it."""
        self._monitor("device_del vf")


def _command() -> list[str]:
    guest = f"/srv/{root.guest_root().name}"
    shared = "local,id={0},path={1},security_model=none,readonly=on"
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "tcg"),
        *("-cpu", PROCESSOR, "-m", "512"),
        *("-kernel", f"/srv/{kernel.host_kernel().name}/vmlinux", "-initrd", f"/srv/{initrd().name}"),
        *("-append", "console=ttyS0 quiet mitigations=off nokaslr audit=0 panic=-1"),
        *("-serial", "file:/run/console", "-serial", "unix:/run/agent,server=on,wait=off"),
        *("-monitor", "unix:/run/monitor,server=on,wait=off"),
        *("-fsdev", shared.format("root", guest), "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *(
            "-fsdev",
            shared.format("given", "/run/given"),
            "-device",
            "virtio-9p-pci,fsdev=given,mount_tag=given",
        ),
        *("-device", "pcie-root-port,id=port1,chassis=1", "-device", "pcie-root-port,id=port2,chassis=2"),
        *("-netdev", WIRE.format(name="outside"), "-device", VIRTIO.format(name="outside", mac=OUTSIDE_MAC)),
        *("-netdev", WIRE.format(name="standby"), "-device", VIRTIO.format(name="standby", mac=STANDBY_MAC)),
        *("-netdev", WIRE.format(name="vf"), "-device", VF.format(port="port1")),
    ]
