# SPDX-License-Identifier: GPL-2.0-or-later
"""`50_vfmigrate --test`: whether the plugin would work on this host, run as user vdsm."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from vfmigrate_vdsm import vnic
from vfmigrate_vdsm.daemon import Daemon, PluginError
from vfmigrate_vdsm.handover import printable

SAMPLE = """<interface type="bridge">
  <mac address="56:6f:1a:2b:00:01"/>
  <model type="virtio"/>
  <source bridge="ovirtmgmt"/>
  <link state="up"/>
  <alias name="ua-7f2d4f0e-0000-4000-8000-000000000001"/>
</interface>"""
USAGE = "usage: 50_vfmigrate [--test]; vdsm runs it without arguments"


def main(arguments: Sequence[str], socket: str) -> int:
    """Show a vNIC turned into a VF, and the pools; 0 when the daemon answers and has any."""
    if arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] not in ("-t", "--test"):
        print(USAGE)
        return 1
    interface = ET.fromstring(SAMPLE)  # noqa: S314 - ours
    vnic.convert(interface, "0000:e1:00.2")
    print(ET.tostring(interface, encoding="unicode"))
    try:
        pools = Daemon(socket).ask("pools")["pools"]
    except PluginError as error:
        print(printable(f"vfmigrate: {error}"))
        return 1
    for pool in pools:
        print(printable(f"pool {pool['name']}: {pool['free']} of {pool['vfs']} VFs free"))
    if not pools:
        print("vfmigrate: this host has no pools: see vfmigrate.conf(5)")
    return 0 if pools else 1
