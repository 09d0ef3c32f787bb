# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a card only a process with CAP_SYS_ADMIN can read, which vfmigrated has not.

The kernel shows the first 64 bytes of a device's configuration space to everybody, and the rest, where the size of the
MSI-X table is, to CAP_SYS_ADMIN only (pci_read_config() in its drivers/pci/pci-sysfs.c); a vendor's tool needs the same
to query the firmware. That right is nearly all of root's, so the daemon, which parses what guests' users write, does
without: `main` is a process of its own (vfmigrate-pci.service) that has it and reads these two values for root, and
nothing else. `PciReader` asks it, in the form of the daemon's socket (protocol.py).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from vfmigrate.cards import registry
from vfmigrate.cards.registry import Vendors
from vfmigrate.errors import Denied, HostError, Unreachable, VfmigrateError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.sysfs_files import read_bytes
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc import protocol
from vfmigrate.rpc.protocol import Request
from vfmigrate.rpc.server import Server, listening_socket
from vfmigrate.text import complain

SOCKET = Path("/run/vfmigrate/pci.sock")
REQUESTS = frozenset({"config_spaces", "migration_setting"})

# capabilities(7)
_CAP_SYS_ADMIN = 21
_BYTES = 256
# It answers in milliseconds, but the first request may wait for its start, which is slow on a busy host.
_CONFIG_SECONDS = 20.0
_DEVICES_AT_ONCE = 512
# A vendor's tool has half a minute.
_TOOL_SECONDS = 40.0


def is_privileged(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has CAP_SYS_ADMIN, and so reads everything itself; False where it cannot see its rights."""
    try:
        text = status.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_ADMIN & 1)
    return False


class PciReader:
    """Asks the process that may read. All methods raise HostError, Unreachable when it does not answer."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def config_spaces(self, devices: Sequence[PciAddress]) -> dict[PciAddress, bytes]:
        """The first 256 bytes of the configuration space of each device; few requests, however many devices."""
        spaces: dict[PciAddress, bytes] = {}
        for begin in range(0, len(devices), _DEVICES_AT_ONCE):
            asked = devices[begin : begin + _DEVICES_AT_ONCE]
            answers = self._ask("config_spaces", {"devices": list(map(str, asked))}, _CONFIG_SECONDS)
            texts = answers if isinstance(answers, list) else []
            if len(texts) != len(asked):
                raise HostError(f"the configuration space of {asked[0]} cannot be read")
            try:
                spaces.update({device: bytes.fromhex(str(text)) for device, text in zip(asked, texts)})
            except ValueError:
                raise HostError(f"the configuration space of {asked[0]} cannot be read") from None
        return spaces

    def migration_setting(self, pf: PciAddress) -> Optional[int]:
        """As Vendor.migration_setting."""
        value = self._ask("migration_setting", {"device": str(pf)}, _TOOL_SECONDS)
        return value if isinstance(value, int) else None

    def _ask(self, name: str, arguments: Mapping[str, object], timeout: float) -> object:
        try:
            answer = protocol.ask(name, arguments, path=self._path, timeout=timeout)
        except Unreachable:
            raise Unreachable(
                "vfmigrate-pci, which reads the configuration space of devices, does not answer",
                "run: systemctl restart vfmigrate-pci.socket; systemctl status vfmigrate-pci",
            ) from None
        return answer.get("value")


class PciReads:
    """Answers root's requests below one mount of sysfs."""

    def __init__(self, root: Path = Path("/sys"), vendors: Optional[Vendors] = None) -> None:
        self._devices = root / "bus/pci/devices"
        self._sysfs = Sysfs(root)
        self._vendors = vendors if vendors is not None else registry.known()

    def answer(self, request: Request, uid: int) -> dict[str, Any]:
        """Answer a request of a user. Raises VfmigrateError."""
        if uid != 0:
            raise Denied("only root can read the configuration space of a card", "run the command as root")
        if request.name == "config_spaces":
            return {
                "value": [self._config(PciAddress.parse(each)).hex() for each in request.words("devices")]
            }
        device = PciAddress.parse(request.text("device"))
        return {"value": self._vendors.of(self._sysfs.pci_id(device)).migration_setting(device)}

    def _config(self, device: PciAddress) -> bytes:
        return read_bytes(self._devices / str(device) / "config", _BYTES)


def main() -> int:
    """Answer until SIGTERM; returns the exit status."""
    try:
        listener = listening_socket(SOCKET)
    except VfmigrateError as error:
        complain("vfmigrate-pci", error)
        return error.exit_code
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = Server(listener, PciReads().answer, known=REQUESTS)
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
