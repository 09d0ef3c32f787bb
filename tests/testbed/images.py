# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hosts and guests are made of: roots, kernels, the host's disk image and initrd.

Every function returns the path of a cache entry and makes it first when it is missing.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.testbed import apt, cache, kernel, packages
from tests.testbed.root import HOST_PACKAGES, compiler_root, host_root, overlaid
from tests.testbed.run import run

__all__ = ["guest_initrd", "host_image", "host_root", "prepare", "ssh_key"]

HERE = Path(__file__).parent

# Raise when a recipe below changes in a way that its keys do not show.
DISK_RECIPE = 2
INITRD_RECIPE = 1

DISK_SIZE = "3G"

# Modules that a host needs before it sees its disk.
EARLY_MODULES = ("virtio_blk", "virtio_pci", "ext4", "crc32c_generic")

# Units that only cost time on a host that lives for a few minutes.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "libvirt-guests.service",
    "logrotate.timer",
    "man-db.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "sshd-keygen.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-logind.service",
    "systemd-machined.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
    "tmp.mount",
    "uuidd.socket",
)

# Modules that udev would load for devices that nobody uses here, each costing a part of a second.
UNWANTED_MODULES = [
    "aesni-intel",
    "ahci",
    "button",
    "ccp",
    "configfs",
    "crc32-pclmul",
    "crct10dif-pclmul",
    "efi-pstore",
    "evdev",
    "ghash-clmulni-intel",
    "i2c-i801",
    "iTCO_wdt",
    "igbvf",
    "kvm",
    "kvm-amd",
    "kvm-intel",
    "libata",
    "lpc_ich",
    "pcspkr",
    "psmouse",
    "qemu_fw_cfg",
    "scsi_mod",
    "serio_raw",
    "sha1-ssse3",
    "sha256-ssse3",
    "sha512-ssse3",
    "vsock",
    "vsock_loopback",
]

# libvirt would start these by D-Bus, and take their being masked for an error; without them it does their
# work itself.
REMOVED_FILES = (
    "usr/share/dbus-1/system-services/org.freedesktop.login1.service",
    "usr/share/dbus-1/system-services/org.freedesktop.machine1.service",
    "usr/lib/systemd/system-generators/systemd-ssh-generator",
    "usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
    "usr/lib/systemd/system-generators/systemd-tpm2-generator",
    "usr/lib/systemd/system-generators/systemd-sysv-generator",
)
DISABLED_UNITS = ("virtlogd.service", "virtlockd.service")
ENABLED_UNITS = (
    "libvirtd-tcp.socket",
    "libvirtd.service",
    "ssh.service",
    "testbed-card.service",
    "testbed-network.service",
)

HOST_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /sys /proc
exec /bin/busybox switch_root /root /sbin/init
"""


def prepare() -> None:
    """Make everything a run needs, side by side where it can be."""
    apt.refresh()
    apt.kernel()  # which all of them ask for: asked at once, apt would be asked by each
    with ThreadPoolExecutor() as lanes:
        jobs = [lanes.submit(job) for job in (kernel.guest_kernel, host_image, guest_initrd, ssh_key)]
        for job in jobs:
            job.result()


@functools.cache
def ssh_key() -> Path:
    """A directory with the key pair that opens the hosts: `id` and `id.pub`."""

    def generate(path: Path) -> None:
        path.mkdir()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vfmigrate test bed", "-f", path / "id")

    return cache.entry("ssh-key", "ed25519", generate)


@functools.cache
def guest_initrd() -> Path:
    """The guest's initramfs, which holds nothing but guest/init.c as a static program."""
    source = HERE / "guest" / "init.c"
    parts: cache.Parts = [INITRD_RECIPE, compiler_root().name, cache.digest(source)]
    return cache.entry("guest-initrd", parts, lambda path: build_guest_initrd(path, source))


def build_guest_initrd(path: Path, source: Path) -> None:
    """Compile the guest's only program and pack it."""
    with tempfile.TemporaryDirectory(prefix="vfmigrate-guest-") as name:
        work = Path(name)
        tree = work / "tree"
        for folder in ("dev", "proc", "sys"):
            (tree / folder).mkdir(parents=True)
        shutil.copy(source, work)
        compile_it = ("gcc", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s")
        kernel.in_root(
            compiler_root(),
            work,
            *compile_it,
            "-o",
            "/mnt/tree/init",
            "/mnt/init.c",
            log=cache.log("guest-initrd"),
        )
        cpio(tree, path)


@functools.cache
def host_image() -> Path:
    """A directory with the hosts' `disk` and `initrd`.

    The disk is the host root with its kernel's modules, the test modules and the files below host/.
    """
    files = HERE / "host"
    parts: cache.Parts = {
        "recipe": DISK_RECIPE,
        "root": host_root().name,
        "kernel": kernel.host_kernel().name,
        "modules": kernel.modules().name,
        "key": ssh_key().name,
        "files": cache.digest(files),
        "units": [list(MASKED_UNITS), list(DISABLED_UNITS), list(ENABLED_UNITS)],
        "removed": [list(REMOVED_FILES), list(UNWANTED_MODULES)],
        "initrd": [INITRD_RECIPE, HOST_INIT, list(EARLY_MODULES)],
    }
    return cache.entry("host-image", parts, lambda path: build_host_image(path, files))


def build_host_image(path: Path, files: Path) -> None:
    """Put a host together in an overlay and make a disk and an initramfs of it."""
    path.mkdir()
    with overlaid(host_root(), path.with_suffix(".work")) as tree:
        install_kernel_modules(tree)
        tell_rpm(tree)
        shutil.copytree(files, tree, dirs_exist_ok=True)
        authorized = tree / "root" / ".ssh" / "authorized_keys"
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(ssh_key() / "id.pub", authorized)
        for folder in ("testbed", "etc/vfmigrate", "etc/libvirt/hooks/qemu.d"):
            (tree / folder).mkdir(parents=True, exist_ok=True)
        (tree / "etc" / "machine-id").write_text("")
        for name in REMOVED_FILES:
            (tree / name).unlink()
        run("systemctl", "--root", tree, "mask", *MASKED_UNITS)
        run("systemctl", "--root", tree, "disable", *DISABLED_UNITS)
        run("systemctl", "--root", tree, "enable", *ENABLED_UNITS)
        run("systemctl", "--root", tree, "set-default", "multi-user.target")
        run(
            "chroot",
            tree,
            "ovsdb-tool",
            "create",
            "/etc/openvswitch/conf.db",
            "/usr/share/openvswitch/vswitch.ovsschema",
        )
        pack(path / "initrd", HOST_INIT, early_modules(tree))
        make_disk(tree, path / "disk")


def install_kernel_modules(tree: Path) -> None:
    """Put the kernel's modules and ours into a host's root."""
    release = apt.kernel().abi
    target = tree / "usr" / "lib" / "modules"
    run("cp", "-a", kernel.host_kernel() / "modules", target.parent)
    updates = target / release / "updates"
    shutil.copytree(kernel.modules(), updates)
    for module in (target / release).rglob("*.ko*"):
        if module.name.partition(".")[0] in UNWANTED_MODULES:
            module.unlink()
    run("depmod", "-b", tree, release)


def tell_rpm(tree: Path) -> None:
    """Have rpm know which of a host's Debian packages are there."""
    status = (tree / "var/lib/dpkg/status").read_text()
    with tempfile.TemporaryDirectory(prefix="vfmigrate-rpm-") as name:
        package = packages.stand_in(packages.versions(status), HOST_PACKAGES, Path(name))
        kernel.in_root(tree, package.parent, "rpm", "-U", f"/mnt/{package.name}", log=cache.log("host-image"))


def early_modules(tree: Path) -> list[Path]:
    """The files of EARLY_MODULES and of the modules they need, in the order of loading."""
    shown = run("modprobe", "-d", tree, "-S", apt.kernel().abi, "--show-depends", "-a", *EARLY_MODULES)
    files = [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
    return list(dict.fromkeys(files))


def pack(path: Path, init: str, modules: list[Path]) -> None:
    """Make an initramfs of busybox, an init script and modules, whose sorted names give the order of loading."""
    with tempfile.TemporaryDirectory(prefix="vfmigrate-initrd-") as name:
        tree = Path(name)
        for folder in ("bin", "dev", "modules", "proc", "root", "sys"):
            (tree / folder).mkdir()
        shutil.copy(host_root() / "usr" / "bin" / "busybox", tree / "bin" / "busybox")
        (tree / "init").write_text(init)
        (tree / "init").chmod(0o755)
        for number, module in enumerate(modules):
            copy = tree / "modules" / f"{number:02}-{module.name}"
            shutil.copy(module, copy)
            if copy.suffix == ".xz":
                run("xz", "-d", copy)
        cpio(tree, path)


def cpio(tree: Path, path: Path) -> None:
    """Pack a tree as an initramfs, uncompressed: unpacking costs more than reading, under emulation."""
    busybox = host_root() / "usr" / "bin" / "busybox"
    script = 'cd "$1" && find . | "$2" cpio -o -H newc > "$3"'
    run("sh", "-c", script, "sh", tree, busybox, path)


def make_disk(tree: Path, path: Path) -> None:
    """Make an ext4 image of a tree; no journal, for the image is never written to."""
    run("truncate", "-s", DISK_SIZE, path)
    options = ["-q", "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1"]
    run("mke2fs", "-t", "ext4", *options, "-d", tree, path)
