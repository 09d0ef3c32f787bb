# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated's command line, apart from the daemon so that its manual page is made without the daemon's libraries."""

from __future__ import annotations

import argparse
from pathlib import Path

from vfmigrate.config import configuration
from vfmigrate.errors import ConfigError, HostError, UsageError
from vfmigrate.rpc import protocol
from vfmigrate.version import VERSION

CLAIMS = Path("/run/vfmigrate/claims")

#: the exit statuses, for vfmigrated(8)
EXIT_STATUS = {
    0: "SIGTERM or SIGINT ended it; with --check: the configuration is valid.",
    UsageError.exit_code: "The command line is not valid.",
    HostError.exit_code: "It cannot listen at its socket, or cannot use the directory of the claims; with --early: a "
    "card is not in switchdev mode.",
    ConfigError.exit_code: "The configuration is not valid; the message names file, section and key.",
}


def arguments() -> argparse.ArgumentParser:
    """The command line; vfmigrated(8) is written from it."""
    parser = argparse.ArgumentParser(
        prog="vfmigrated",
        description="The daemon of vfmigrate. systemd usually starts it through vfmigrated.socket.",
    )
    for option, default, metavar, text in (
        ("--config", configuration.DEFAULT_PATH, "FILE", "configuration file"),
        ("--socket", protocol.SOCKET, "PATH", "socket to listen on if systemd passes none"),
        ("--claims", CLAIMS, "DIRECTORY", "directory of the claims"),
    ):
        parser.add_argument(
            option, type=Path, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, report what is wrong, and exit"
    )
    parser.add_argument(
        "--early",
        action="store_true",
        help="change the eswitch mode of the pools' cards before the network is configured, and exit",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and exit")
    return parser
