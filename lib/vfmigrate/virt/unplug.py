# SPDX-License-Identifier: GPL-2.0-or-later
"""Unplug a device from a running guest, and wait until the guest has released it.

libvirt only passes the request on: the device leaves when the guest's system lets go of it, which can take seconds, and
a guest that is still booting may ignore the first request.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.polling import until

#: seconds after which the request is repeated
ASK_AGAIN_SECONDS = 10.0
_LOOK_SECONDS = 0.1


def unplug(
    find: Callable[[], Optional[str]],
    detach: Callable[[str], object],
    seconds: float,
    *,
    pause: Callable[[float], object] = time.sleep,
) -> bool:
    """Unplug a device; returns whether the guest has released it within `seconds`.

    `find` returns the device's XML as long as the guest has it, and `detach` asks the guest to release it. `pause` is
    that of polling.poll(). Raises HostError where `find` does, or the first `detach`: a repeated request is refused
    while the guest still works on the one before.
    """
    asked = float("-inf")

    def is_released() -> bool:
        nonlocal asked
        device = find()
        if device is None:
            return True
        if time.monotonic() - asked >= ASK_AGAIN_SECONDS:
            try:
                detach(device)
            except HostError:
                if asked < 0:
                    raise
            asked = time.monotonic()
        return False

    return until(is_released, seconds, _LOOK_SECONDS, pause=pause)
