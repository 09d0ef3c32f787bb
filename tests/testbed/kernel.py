# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels: the distribution's for the hosts, a small build for the guest, and the hosts' test modules."""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.testbed import apt, cache
from tests.testbed.root import compiler_root
from tests.testbed.run import run

HERE = Path(__file__).parent
GUEST_RECIPE = 2
MODULES_RECIPE = 1
HOST_RECIPE = 1

# What vfio.ko is made of, for modules/vfio/Kbuild.
VFIO_SOURCES = [
    "drivers/vfio/vfio_main.c",
    "drivers/vfio/group.c",
    "drivers/vfio/virqfd.c",
    "drivers/vfio/container.c",
    "drivers/vfio/vfio.h",
    "drivers/iommu/iommufd/iova_bitmap.c",
]

# What the guest's kernel cannot be configured to do: file below its source, text, and what takes its place.
GUEST_CHANGES = [
    # A tick costs the two emulators milliseconds, and the guest is busy most of the time. 20 is the least that the
    # calibration of the local APIC's timer, which counts for HZ/10 ticks, is right with.
    ("kernel/Kconfig.hz", "default 100 if HZ_100", "default 20 if HZ_100"),
    # Memory of the initialization is filled with a pattern when it is freed. The emulator has translated what ran
    # there, and looks for it at each of these writes: 4 s in all.
    ("arch/x86/mm/init.c", "POISON_FREE_INITMEM, what", "-1, what"),
]

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class KernelError(Exception):
    """A kernel cannot be built as the test bed needs it."""


def in_root(root: Path, folder: Path, *command: str, log: Path) -> None:
    """Run a command in a root with `folder` as /mnt, mounted in the command's own namespace."""
    script = (
        'mount --bind "$1" "$2/mnt" && mount -t proc proc "$2/proc" && '
        'root=$2 && shift 2 && exec chroot "$root" "$@"'
    )
    unshare = ("unshare", "--mount", "--propagation", "private")
    run(*unshare, "sh", "-c", script, "sh", folder, root, *command, log=log)


def source_package() -> Path:
    """The .deb with the source of the hosts' kernel."""
    kernel = apt.kernel()
    return apt.download(f"linux-source-{kernel.series}", kernel.version)


def extract_source(target: Path, members: Sequence[str] = ()) -> Path:
    """Unpack the kernel's source, or some members of it, below `target`; returns the tree's directory."""
    name = f"linux-source-{apt.kernel().series}"
    script = (
        "set -e -o pipefail; package=$1 member=$2 target=$3; shift 3; "
        'dpkg-deb --fsys-tarfile "$package" | tar -xO "$member" | tar -xJ -C "$target" -f - "$@"'
    )
    wanted = [f"{name}/{member}" for member in members]
    run("bash", "-c", script, "bash", source_package(), f"./usr/src/{name}.tar.xz", target, *wanted)
    return target / name


@functools.cache
def guest_kernel() -> Path:
    """The guest's kernel, an uncompressed ELF image that QEMU starts directly (PVH)."""
    config = HERE / "guest" / "kernel.config"
    return cache.entry(
        "guest-kernel",
        {
            "recipe": GUEST_RECIPE,
            "source": apt.kernel().version,
            "config": cache.digest(config),
            "changes": [list(change) for change in GUEST_CHANGES],
        },
        lambda path: build_guest_kernel(path, config),
    )


def build_guest_kernel(path: Path, config: Path) -> None:
    """Configure and compile the guest's kernel; only the image is kept."""
    log = cache.log("guest-kernel")
    work = path.with_suffix(".work")
    cache.remove(work)
    (work / "out").mkdir(parents=True)
    try:
        change_source(extract_source(work))
        shutil.copy(config, work / "config")
        make = f"make -s -C /mnt/linux-source-{apt.kernel().series} O=/mnt/out -j{os.cpu_count() or 1}"
        root = compiler_root()
        in_root(root, work, "sh", "-c", f"{make} KCONFIG_ALLCONFIG=/mnt/config allnoconfig", log=log)
        check_config(config.read_text(), (work / "out" / ".config").read_text())
        in_root(
            root, work, "sh", "-c", f"{make} vmlinux && strip -s -o /mnt/vmlinux /mnt/out/vmlinux", log=log
        )
        (work / "vmlinux").rename(path)
    finally:
        cache.remove(work)


def change_source(tree: Path) -> None:
    """Make GUEST_CHANGES in a source tree. Raises KernelError when it has not the text of one once."""
    for name, text, instead in GUEST_CHANGES:
        source = (tree / name).read_text()
        if source.count(text) != 1:
            raise KernelError(
                f"the kernel's {name} has '{text}' {source.count(text)} times, not once: adapt GUEST_CHANGES"
            )
        (tree / name).write_text(source.replace(text, instead))


def check_config(wanted: str, resulting: str) -> None:
    """Raise KernelError when the kernel's configuration lost one of the options that were asked for."""
    lines = set(resulting.splitlines())
    lost = [line for line in wanted.splitlines() if line.endswith("=y") and line not in lines]
    if lost:
        raise KernelError(f"the guest's kernel cannot have {', '.join(lost)}: adapt guest/kernel.config")


@functools.cache
def vfio_sources() -> Path:
    """The sources of the kernel's vfio.ko."""
    version = apt.kernel().version

    def extract(path: Path) -> None:
        path.mkdir()
        tree = extract_source(path, VFIO_SOURCES)
        for source in VFIO_SOURCES:
            (tree / source).rename(path / Path(source).name)
        cache.remove(tree)

    return cache.entry("vfio-sources", [version, list(VFIO_SOURCES)], extract)


@functools.cache
def modules() -> Path:
    """A directory with the hosts' test modules: cx7sim.ko, igb_vfio_pci.ko and a vfio.ko with DMA logging."""
    sources = HERE / "modules"
    kernel = apt.kernel()
    return cache.entry(
        "modules",
        {"recipe": MODULES_RECIPE, "kernel": [kernel.abi, kernel.version], "sources": cache.digest(sources)},
        lambda path: build_modules(path, sources),
    )


def build_modules(path: Path, sources: Path) -> None:
    """Compile the test modules against the hosts' kernel."""
    work = path.with_suffix(".work")
    cache.remove(work)
    try:
        shutil.copytree(sources, work)
        shutil.copytree(vfio_sources(), work / "vfio", dirs_exist_ok=True)
        build = f"make -s -C /lib/modules/{apt.kernel().abi}/build M=/mnt modules"
        script = f"{build} && strip --strip-debug /mnt/*.ko /mnt/vfio/*.ko"
        in_root(compiler_root(), work, "sh", "-c", script, log=cache.log("modules"))
        path.mkdir()
        for module in work.rglob("*.ko"):
            shutil.copy(module, path)
    finally:
        cache.remove(work)


@functools.cache
def host_kernel() -> Path:
    """A directory with the hosts' kernel: `vmlinux`, started directly (PVH), and `modules/` by ABI."""
    kernel = apt.kernel()
    parts: cache.Parts = {"recipe": HOST_RECIPE, "kernel": [kernel.abi, kernel.version]}
    return cache.entry("host-kernel", parts, unpack_host_kernel)


def unpack_host_kernel(path: Path) -> None:
    """Unpack the distribution's kernel, decompressed: the hosts would take seconds for it at every boot."""
    kernel = apt.kernel()
    package = apt.download(f"linux-image-{kernel.abi}", kernel.version)
    run("dpkg-deb", "-x", package, path)
    image = (path / "boot" / f"vmlinuz-{kernel.abi}").read_bytes()
    (path / "vmlinux").write_bytes(decompress_image(image))
    (path / "usr" / "lib" / "modules").rename(path / "modules")


def decompress_image(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage compressed with zstd (Documentation/arch/x86/boot.rst of the kernel).

    Raises KernelError when there is none.
    """
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # the payload's last four bytes are its decompressed size, which zstd does not expect
    payload = image[start : start + length - 4]
    if not payload.startswith(ZSTD_MAGIC):
        raise KernelError(
            "the hosts' kernel is not compressed with zstd any more: teach decompress_image the new way"
        )
    kernel = subprocess.run(["zstd", "-dc"], input=payload, stdout=subprocess.PIPE, check=True).stdout
    if not kernel.startswith(b"\x7fELF"):
        raise KernelError("the hosts' kernel image does not hold an ELF kernel")
    return kernel
