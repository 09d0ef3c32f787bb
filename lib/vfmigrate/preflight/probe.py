# SPDX-License-Identifier: GPL-2.0-or-later
"""The door to the network between two hosts: what a name resolves to here, and whether a port there can be reached."""

from __future__ import annotations

import errno
import os
import socket
from typing import Optional

from vfmigrate.preflight.checks.network import FILTERED, REACHABLE
from vfmigrate.preflight.snapshot import AddressFacts

# What a firewall's reject looks like: iptables and nftables answer by an ICMP message unless told otherwise.
_REJECTED = (errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.ECONNABORTED)


def look(host: str, port: int, seconds: float = 2.0) -> AddressFacts:
    """How this host finds `host`, and what becomes of a connection to `port` there within `seconds`."""
    addresses = resolve(host)
    if not addresses:
        return AddressFacts(host, None)
    return AddressFacts(host, addresses, port, reach(addresses[0], port, seconds))


def resolve(host: str) -> Optional[tuple[str, ...]]:
    """The addresses of a name, as the emulator would resolve it; None when there are none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found)) or None


def reach(address: str, port: int, seconds: float) -> str:
    """What becomes of a connection: one that is refused got through, as long as nobody listens there."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return REACHABLE
    except ConnectionRefusedError:
        return REACHABLE
    except TimeoutError:
        return FILTERED
    except OSError as error:
        # Python 3.9's socket.timeout is an OSError of its own without a number.
        if error.errno is None or error.errno in _REJECTED:
            return FILTERED
        return os.strerror(error.errno)
