# SPDX-License-Identifier: GPL-2.0-or-later
"""The door to kernel modules: loads a driver that a device needs, as libvirt does before it binds one."""

from __future__ import annotations

import subprocess

_SECONDS = 30


def modprobe(driver: str) -> None:
    """Load the module of a driver, unless the administrator forbids it (-b: modprobe.d's blacklist counts).

    Says nothing when that fails: whoever needs the driver looks whether it is there.
    """
    command = ["modprobe", "-b", "--", driver.replace("-", "_")]
    try:
        subprocess.run(command, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return
