# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated's command line, apart from the daemon so that its manual page is made without the daemon's libraries."""

from __future__ import annotations

import argparse
from pathlib import Path

from vfmigrate.config import configuration
from vfmigrate.rpc import protocol
from vfmigrate.version import VERSION

CLAIMS = Path("/run/vfmigrate/claims")


def arguments() -> argparse.ArgumentParser:
    """The command line; vfmigrated(8) is written from it."""
    parser = argparse.ArgumentParser(
        prog="vfmigrated",
        description="Daemon of vfmigrate; usually started by systemd through vfmigrated.socket.",
    )
    for option, default, metavar, told in (
        ("--config", configuration.DEFAULT_PATH, "FILE", "the configuration"),
        ("--socket", protocol.SOCKET, "PATH", "where to listen when systemd hands over no socket"),
        ("--claims", CLAIMS, "DIRECTORY", "where to keep the claims"),
    ):
        parser.add_argument(
            option, type=Path, default=default, metavar=metavar, help=f"{told} (default: %(default)s)"
        )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and end"
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and end")
    return parser
