# SPDX-License-Identifier: GPL-2.0-or-later
"""A sysfs with a fake card, mounted in a directory of a test and served by a separate process.

The process unmounts it and ends when its standard input closes, so that even a killed test run leaves nothing.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes import sysfs_fuse
from tests.fakes.card import Card

_PROJECT = Path(__file__).parents[2]


@contextmanager
def mounted(mount_point: Path, *pfs: str) -> Iterator[Path]:
    """Mount a sysfs that shows one card with the PFs at these addresses; gives the mount point."""
    command = [sys.executable, "-m", "tests.integration.mounted_sysfs", str(mount_point), *pfs]
    with subprocess.Popen(command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            if server.stdout.readline() != b"mounted\n":
                raise RuntimeError(f"the fake sysfs did not come up at {mount_point}")
            yield mount_point
        finally:
            server.stdin.close()
            server.wait(20)


def main() -> None:
    """Serve until standard input closes."""
    mount_point = Path(sys.argv[1])

    def unmount_at_end() -> None:
        sys.stdin.read()
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)

    threading.Thread(target=unmount_at_end, daemon=True).start()
    sysfs_fuse.serve(Card(sys.argv[2:]), mount_point, lambda: print("mounted", flush=True))


if __name__ == "__main__":
    main()
