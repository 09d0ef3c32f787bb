# SPDX-License-Identifier: GPL-2.0-or-later
"""The product on the test hosts: how it is installed, configured and restarted."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.testbed.guest import POOL
from tests.testbed.host import PF, Host
from tests.testbed.namespace import RUN
from tests.testbed.provision import BRIDGE
from tests.testbed.run import run

CLONE = Path(__file__).resolve().parents[2]
CONFIG_PATH = "/etc/vfmigrate/vfmigrate.conf"

CONFIG = f"""\
[pool {POOL}]
pf = {PF}
bridge = {BRIDGE}
vlans = 42-43
"""


def stage() -> bytes:
    """The product of this clone as its `make install` lays it out, as a tar archive."""
    folder = RUN / "stage"
    run("make", "-s", "-C", CLONE, "install", f"DESTDIR={folder}")
    command = ["tar", "--owner=0", "--group=0", "-C", folder, "-cf", "-", "."]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def install(host: Host, archive: bytes) -> None:
    """Put the product on a host, configure its pool and start its daemon."""
    host.run("tar -xf - -C /", stdin=archive)
    host.write(CONFIG_PATH, CONFIG)
    # libvirt looks for hooks when it starts: it must do so again now that there is one
    units = "vfmigrated.socket vfmigrated.service"
    host.run(
        f"systemctl daemon-reload && systemctl enable -q --now {units} && systemctl restart libvirtd",
        timeout=120,
    )


def set_announce(host: Host, on: bool) -> None:
    """Switch the announce on or off on a host; the daemon reads its configuration when it starts."""
    host.write(CONFIG_PATH, CONFIG if on else CONFIG + "announce = no\n")
    host.run("systemctl restart vfmigrated.service")


def version(host: Host) -> str:
    """The version the installed product gives."""
    return host.run("vfmigrate --version").strip()
