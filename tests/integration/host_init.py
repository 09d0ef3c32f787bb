# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process of a namespace host: mounts its file systems, then lives as long as its owner.

Run by `namespaces.Namespace` as pid 1 of fresh mount, network, pid, UTS and IPC namespaces:

    host_init.py NAME LOWER PLACE

NAME becomes the host name, LOWER is the root file system below a writable overlay, PLACE an empty directory for the
mount points. It prints one line, its pid as seen from outside, once the host can be entered.

Everything that the host writes goes to memory (the overlay's upper layer is a tmpfs), and every mount is in its private
mount namespace, so that nothing remains when this process ends, however it ends. It ends when its standard input
closes, so that its owner need not live long enough to clean up.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

# Character devices of a host by path: major and minor (Documentation/admin-guide/devices.txt).
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
    # The VFIO container: libvirt only checks that the node exists.
    "vfio/vfio": (1, 3),
}
LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1"}


def mount(kind: str, target: Path, options: str = "") -> None:
    """Mount a file system of a kind on a directory, which is made when missing."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", kind, *(["-o", options] if options else []), kind, os.fspath(target)], check=True
    )


def lay_out(lower: Path, place: Path) -> Path:
    """Mount the host's file systems below `place`; return the host's root."""
    writable, root = place / "writable", place / "root"
    root.mkdir()
    mount("tmpfs", writable, "mode=755")
    for layer in ("upper", "work"):
        (writable / layer).mkdir()
    mount("overlay", root, f"lowerdir={lower},upperdir={writable}/upper,workdir={writable}/work")
    mount("proc", root / "proc")
    mount("sysfs", root / "sys")
    mount("tmpfs", root / "run", "mode=755")
    mount("tmpfs", root / "tmp", "mode=1777")
    mount("tmpfs", root / "dev", "mode=755,dev")
    mount("devpts", root / "dev/pts", "newinstance,ptmxmode=666,mode=620")
    mount("tmpfs", root / "dev/shm", "mode=1777")
    for name, (major, minor) in DEVICES.items():
        node = root / "dev" / name
        node.parent.mkdir(exist_ok=True)
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        node.chmod(0o666)
    for name, target in LINKS.items():
        (root / "dev" / name).symlink_to(target)
    return root


def main() -> None:
    """Become the host; return when its owner is gone."""
    name, lower, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    outside_pid = Path("/proc/self").readlink()
    root = lay_out(lower, place)
    # Orphans of the host become children of this process; the kernel reaps ignored children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    socket.sethostname(name)
    os.chroot(root)
    os.chdir("/")
    print(outside_pid, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
