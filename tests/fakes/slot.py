# SPDX-License-Identifier: GPL-2.0-or-later
"""A namespace host's PCI slot with a fake card: the process that acts as the kernel for that one host.

Run in the host's mount, network and pid namespaces, with the machine's own files around it:

    python -m tests.fakes.slot ROOT UPLINK PF...

It mounts a sysfs with the card over ROOT/sys, makes a real network device for each representor (one end of a veth pair,
whose other end is the VF's side), makes the nodes in ROOT/dev/vfio that the VFIO drivers would make, serves devlink
and the VF part of rtnetlink to programs with the shims preloaded (on the sockets `devlink` and `rtnetlink` in
ROOT/run/slot), and lets a test read and change the card (on `control` there). It prints one line when it is ready, and
ends when its standard input closes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Optional

from tests.fakes import sysfs_fuse
from tests.fakes.card import SWITCHDEV, Card
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.hardware import Hardware, Netdev, netdev_name
from tests.fakes.vf_netlink import VfNetlink

# more than most tests use, enough for tests with many guests
TOTAL_VFS = 24


class Representors:
    """The network devices of the card in this network namespace: the uplink, and a veth pair for each VF."""

    def __init__(self, uplink: str, pfs: Sequence[str]) -> None:
        self._first = pfs[0]
        self._uplink = Netdev(socket.if_nametoindex(uplink), uplink)
        self._made: dict[tuple[str, int], int] = {}

    def uplink(self, pf: str) -> Optional[Netdev]:  # noqa: ARG002  (all PFs here have one)
        """Find the PF's own network device."""
        return self._uplink

    def representor(self, pf: str, vf: int) -> Optional[Netdev]:
        """Find the representor of a VF, by the name that it has now."""
        ifindex = self._made.get((pf, vf))
        return Netdev(ifindex, socket.if_indextoname(ifindex)) if ifindex is not None else None

    def match(self, wanted: set[tuple[str, int]]) -> None:
        """Make representors of exactly these VFs exist, given as PF and number."""
        for key in sorted(set(self._made) - wanted):
            subprocess.run(["ip", "link", "delete", socket.if_indextoname(self._made.pop(key))], check=True)
        for pf, vf in sorted(wanted - set(self._made)):
            name = f"{netdev_name(pf)}npf0vf{vf}"[-15:]
            wire = f"vf{vf}" if pf == self._first else f"{netdev_name(pf)}vf{vf}"[-15:]
            subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", wire], check=True)
            subprocess.run(["ip", "link", "set", wire, "up"], check=True)
            self._made[pf, vf] = socket.if_nametoindex(name)


class PluggedCard(Card):
    """A card whose changes show on the host at once: representors and VFIO nodes appear and vanish."""

    def __init__(self, pfs: Sequence[str], representors: Representors, vfio: Path) -> None:
        super().__init__(pfs, hardware=replace(Hardware(), total_vfs=TOTAL_VFS), netdevs=representors)
        self._representors = representors
        self._vfio = vfio
        self._delays: dict[str, float] = {}
        (vfio / "vfio").touch(mode=0o600)

    def changes(self) -> list[tuple[str, ...]]:
        """Every change of the card that was requested so far, also those that were refused."""
        return list(self.trace)

    def serve(self, path: Path) -> DevlinkServer:
        """Answer devlink's requests at a path."""
        server = DevlinkServer(self, path)
        self._delays = server.delays
        return server

    def delay(self, pf: str, seconds: float) -> None:
        """Take so long for each of devlink's answers about a PF, from now on."""
        self._delays[pf] = seconds

    def refit(self, hardware: Hardware) -> None:
        """Replace the card's hardware: firmware, PSID, features. Its size and drivers must be the same."""
        with self._changing("refit"):
            self.hardware = hardware

    @contextmanager
    def _changing(self, *what: str) -> Iterator[None]:
        with super()._changing(*what):
            try:
                yield
            finally:
                self._representors.match(self._represented())
                self._match_vfio()

    def _represented(self) -> set[tuple[str, int]]:
        switched = [pf for pf in self.handles() if self.eswitch_mode(pf) == SWITCHDEV]
        return {
            (each.pf, each.vf) for each in self.functions() if each.pf in switched and each.vf is not None
        }

    def _match_vfio(self) -> None:
        drivers = set(self.drivers()) - {self.hardware.host_driver}
        wanted = {str(each.iommu_group): each for each in self.functions() if each.driver in drivers}
        present = {each.name for each in self._vfio.iterdir() if each.name.isdigit()}
        for name in present - wanted.keys():
            (self._vfio / name).unlink()
        for name, function in wanted.items():
            # A file instead of a device: QEMU only holds it open, and vfio_shim.c answers vfmigrate by what it says.
            flags, logs, size = self.vfio_answer(function.address)
            node = self._vfio / name
            node.touch(mode=0o600)
            node.write_text(f"{function.address} {flags} {int(logs)} {size} 1\n")


class Control(BaseManager):
    """The control socket: `card()` is the card itself, by proxy."""

    def card(self) -> PluggedCard:
        """The card in the slot; replaced by a proxy when the manager is connected."""
        raise NotImplementedError


# A client needs only the name; the server adds the implementation below.
Control.register("card")


def leave_with_owner() -> None:
    """End this process, whatever its threads do, when its standard input ends."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve the card until the host ends."""
    root, uplink, *pfs = sys.argv[1:]
    card = PluggedCard(pfs, Representors(uplink, pfs), Path(root, "dev/vfio"))
    place = Path(root, "run/slot")
    place.mkdir()
    Control.register("card", callable=lambda: card)
    server = Control(os.fspath(place / "control"), authkey=b"").get_server()
    rtnetlink = VfNetlink(card, pfs[0], uplink)
    for loop in (server.serve_forever, lambda: rtnetlink.serve(place / "rtnetlink"), leave_with_owner):
        threading.Thread(target=loop, daemon=True).start()
    with card.serve(place / "devlink"):
        sysfs_fuse.serve(card, Path(root, "sys"), ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    main()
