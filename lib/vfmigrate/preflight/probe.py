# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests the network path to another host: what a name resolves to here, and whether a port there can be reached."""

from __future__ import annotations

import errno
import os
import socket
from typing import Optional

from vfmigrate.preflight.checks.network import FILTERED, REACHABLE
from vfmigrate.preflight.snapshot import AddressFacts

# Errors of a firewall's reject: iptables and nftables answer with an ICMP message by default.
_REJECTED = (errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.ECONNABORTED)


def observe(host: str, port: int, seconds: float = 2.0) -> AddressFacts:
    """What this host resolves `host` to, and the result of a connection to `port` there within `seconds`."""
    addresses = resolve(host)
    if not addresses:
        return AddressFacts(host, None)
    return AddressFacts(host, addresses, port, reach(addresses[0], port, seconds))


def resolve(host: str) -> Optional[tuple[str, ...]]:
    """The addresses of a name, as QEMU would resolve it; None if there are none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found)) or None


def reach(address: str, port: int, seconds: float) -> str:
    """The result of a connection; a refused one reached the host, where nothing listens yet."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return REACHABLE
    except ConnectionRefusedError:
        return REACHABLE
    except TimeoutError:
        return FILTERED
    except OSError as error:
        # Python 3.9's socket.timeout is an OSError without a number.
        if error.errno is None or error.errno in _REJECTED:
            return FILTERED
        return os.strerror(error.errno)
