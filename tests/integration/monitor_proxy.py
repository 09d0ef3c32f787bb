# SPDX-License-Identifier: GPL-2.0-or-later
"""A proxy between libvirt and QEMU's monitor, for VFs that are plugged into a running guest.

    monitor_proxy.py LISTENING-DESCRIPTOR PATH PID

It accepts libvirt's connections at the socket that libvirt made and forwards everything to QEMU's own at PATH and back,
with descriptors. As emulator.sh does on the command line, it replaces a VF in `device_add` by an emulated NIC, and
holds the VF's VFIO group open until QEMU reports that the device is gone. It ends with the process PID, which is QEMU.
The protocol: QEMU's docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any, Optional

_DESCRIPTORS = 16
_SIZE = 1 << 16


def close_others(kept: int) -> None:
    """Close the descriptors inherited from libvirt, except standard streams: taps, migration sockets, logs."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor != kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing is closed already
                os.close(descriptor)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Bytes and descriptors of one message; no bytes at the end."""
    found = array.array("i")
    space = socket.CMSG_SPACE(_DESCRIPTORS * found.itemsize)
    data, ancillary, _flags, _address = connection.recvmsg(_SIZE, space)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return data, list(found)


def send(connection: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send a message whole, with descriptors, and close those here."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = connection.sendmsg([data], rights)
    connection.sendall(data[sent:])
    for descriptor in descriptors:
        os.close(descriptor)


class Devices:
    """The VFs that were replaced, by QEMU's names of the devices, each with its VFIO group held open."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._asked: Optional[str] = None

    def command(self, line: bytes) -> bytes:
        """A command of libvirt, with an emulated NIC in place of a VF."""
        told = json.loads(line)
        arguments: dict[str, Any] = told.get("arguments", {})
        if told.get("execute") != "device_add" or arguments.get("driver") != "vfio-pci":
            return line
        name = arguments["id"]
        group = Path(f"/sys/bus/pci/devices/{arguments.pop('host')}/iommu_group").readlink().name
        self._held[name] = os.open(f"/dev/vfio/{group}", os.O_RDONLY | os.O_CLOEXEC)
        self._asked = name
        arguments.update(driver="e1000e", romfile="")
        return json.dumps(told).encode() + b"\n"

    def answer(self, line: bytes) -> None:
        """Handle a message of QEMU: a device was added or removed."""
        told = json.loads(line)
        if self._asked is not None and ("return" in told or "error" in told):
            if "error" in told:
                self._let_go(self._asked)
            self._asked = None
        if told.get("event") == "DEVICE_DELETED":
            self._let_go(told["data"].get("device", ""))

    def _let_go(self, name: str) -> None:
        if name in self._held:
            os.close(self._held.pop(name))


def relay(libvirt: socket.socket, qemu: socket.socket, devices: Devices) -> None:
    """Forward everything to the other side until one of them ends."""
    asked, descriptors, answered = b"", [], b""
    while True:
        for connection in select.select([libvirt, qemu], [], [])[0]:
            data, received = receive(connection)
            if not data:
                return
            if connection is qemu:
                *lines, answered = (answered + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        devices.answer(line)
                send(libvirt, data, received)
                continue
            descriptors += received
            *lines, asked = (asked + data).split(b"\n")
            for line in lines:
                send(qemu, devices.command(line + b"\n") if line.strip() else b"\n", descriptors)
                descriptors = []


def lives(pid: int) -> bool:
    """Whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def connected(path: str, pid: int) -> Optional[socket.socket]:
    """A connection to QEMU's monitor once QEMU has started; None if it ended instead."""
    while lives(pid):
        qemu = socket.socket(socket.AF_UNIX)
        try:
            qemu.connect(path)
            return qemu
        except OSError:
            qemu.close()
            time.sleep(0.02)
    return None


def main() -> None:
    """Serve one connection of libvirt after another, as needed when libvirt restarts."""
    number, path, pid = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    close_others(number)
    devices = Devices()
    with socket.socket(fileno=number) as listening:
        while lives(pid):
            if not select.select([listening], [], [], 0.2)[0]:
                continue
            libvirt, _address = listening.accept()
            qemu = connected(path, pid)
            if qemu is None:
                return
            with libvirt, qemu:
                try:
                    relay(libvirt, qemu, devices)
                except (BrokenPipeError, ConnectionResetError):
                    continue


if __name__ == "__main__":
    main()
