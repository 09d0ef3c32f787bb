# SPDX-License-Identifier: GPL-2.0-or-later
"""Input from outside for the code that reads it, and the rules that hold for every input.

The only exception is a VfmigrateError of one line. A refusal changes nothing on the host. Nothing is left when the
guest is gone. A password in the input appears in no error, no log entry and no claim.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from tests.fakes.hardware import Function
from tests.fakes.rig import Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config import configuration as configuration_file
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.errors import InputError, VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc import protocol

PASSWORD = "planted-9f1c"  # noqa: S105  (what must not be found)
CLIENT = 107
UUID = "22222222-2222-4222-8222-222222222222"
OPERATIONS = ("migrate", "restore", "prepare", "start", "started", "stopped", "release", "reconnect")

DOMAIN = f"""<domain type='kvm'><name>guest1</name><uuid>{UUID}</uuid><metadata>
<v:vfs xmlns:v='urn:vfmigrate:domain:1'>
<v:vf mac='52:54:00:00:00:02' pool='data' vlan='42' address='0000:81:00.2' psid='MT_0000000892' msix='11'/>
<v:vf mac='52:54:00:00:00:04' pool='data' trunks='42 43' address='0000:81:00.3' strategy='failover'/>
</v:vfs></metadata><devices>
<graphics type='vnc' passwd='{PASSWORD}'/>
<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:02'/>
<source><address type='pci' domain='0x0000' bus='0x81' slot='0x00' function='0x2'/></source></interface>
<hostdev mode='subsystem' type='pci' managed='yes'>
<source><address domain='0x0000' bus='0x01' slot='0x00' function='0x3'/></source></hostdev>
<interface type='bridge'><mac address='52:54:00:00:00:04'/><source bridge='br-data'/><vlan><tag id='42'/></vlan>
<virtualport type='openvswitch'/><model type='virtio'/><teaming type='persistent'/><alias name='ua-1'/></interface>
</devices></domain>"""

CONFIGURATION = """\
[daemon]
claim_timeout = 60
readers = nobody
[pool data]
pf = 0000:01:00.0
bridge = br-data
vlans = 42 100-199
mtu = 9000
"""


CLAIM = claim_store.encode(
    Claim(
        vf=PciAddress(0, 1, 0, 2),
        pool="data",
        domain=UUID,
        domain_name="guest1",
        state=claim_store.PLUGGED,
        since=1.5,
        expires=2.5,
        mac="52:54:00:00:00:02",
        vlan=42,
        trunks=(42, 43),
    )
)


class HostileInputError(AssertionError):
    """An input broke a rule."""


def check(condition: object, why: str) -> None:
    """Raises HostileInputError unless the condition holds."""
    if not condition:
        raise HostileInputError(why)


def check_told(error: VfmigrateError) -> None:
    """An error is one line for the administrator, without the password."""
    told = str(error)
    check(told, "an error says nothing")
    check("\n" not in told, f"an error has several lines: {told!r}")
    check(len(told) < 4096, f"an error of {len(told)} characters")
    check(PASSWORD not in told, f"an error tells the password: {told!r}")


class HostileRig(Rig):
    """The rig, which checks the rules after each input."""

    def __init__(self, directory: Path) -> None:
        pool = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlans=frozenset({42, 43}), mtu=9000)
        self._entries = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._entries.bind(str(directory / "journal"))
        config = Config({"data": pool}, clients=frozenset({str(CLIENT)}))
        super().__init__(directory, config=config, journal="journal")
        for vf in self.memory.vfs:
            self.converger.converge(vf)
        self.untouched = self.state(ready=True)

    def close(self) -> None:
        """Close what is open."""
        super().close()
        self._entries.close()

    def state(self, *, ready: bool = False) -> tuple[Any, ...]:
        """Everything on the host that an input could change.

        `ready`: a VF can be bound to its VFIO driver or to none. libvirt unbinds no driver from a VF that it does not
        manage, whoever bound it: it keeps such a VF detached for the next guest (virHostdevReAttachPCIDevices).
        """
        card, switch = self.memory.card, self.memory.ovs
        return (
            [self._unbound(function) if ready else function for function in card.functions()],
            [(port.index, port.hw_addr, port.migratable) for port in card.ports(card.pfs[0])],
            {name: (port.tag, port.owner) for name, port in switch.ports.items()},
            {index: (link.up, link.mtu) for index, link in self.memory.links.links.items() if link.up},
            [claim.vf for claim in self.store.all()],
        )

    def _unbound(self, function: Function) -> Function:
        if function.pf is None or function.driver != self.memory.card.hardware.variant_driver:
            return function
        return replace(function, driver=None, migratable_at_bind=None)

    def hook(self, operation: str, xml: str) -> None:
        """An event from libvirt; afterwards its guest is gone."""
        before = self.state()
        try:
            answer = self.hook_handler.handle(operation, "begin", "-", xml)
            check(answer is None or operation in ("migrate", "restore"), f"{operation} rewrites the XML")
        except VfmigrateError as error:
            check_told(error)
            if isinstance(error, InputError):
                check(self.state() == before, f"refused, and yet the host changed: {error}")
        self._check_secrets()
        self._leave()

    def request(self, line: bytes) -> None:
        """A line on the socket, from a client."""
        before = self.state()
        try:
            request = protocol.decode_request(line)
            protocol.authorize(request, CLIENT, frozenset(), self.config.clients)
            if request.name in protocol.RESERVING:
                json.dumps(self.client_requests.answer(request))
        except VfmigrateError as error:
            check_told(error)
            check(self.state() == before, f"refused, and yet the host changed: {error}")
        self._leave()

    def _leave(self) -> None:
        """Release what was claimed, as when a guest stops."""
        for claim in self.store.all():
            for operation in ("stopped", "release"):
                xml = f"<domain><name>g</name><uuid>{claim.domain}</uuid></domain>"
                self.hook_handler.handle(operation, "end", "-", xml)
        left = self.state(ready=True)
        check(left == self.untouched, f"left behind: {left} instead of {self.untouched}")
        self._check_secrets()

    def _check_secrets(self) -> None:
        for file in (self.directory / "claims").iterdir():
            check(PASSWORD not in file.read_text(errors="replace"), f"{file.name} holds the password")
        while True:
            try:
                entry = self._entries.recv(1 << 16)
            except BlockingIOError:
                return
            check(PASSWORD.encode() not in entry, f"the log tells the password: {entry!r}")
            check(b"has a bug" not in entry, f"the log tells of a bug: {entry!r}")


def configuration(directory: Path, data: bytes) -> None:
    """A configuration file: read, or refused with its name."""
    path = directory / "vfmigrate.conf"
    path.write_bytes(data)
    try:
        configuration_file.load(path)
    except VfmigrateError as error:
        check_told(error)
        check(str(path) in str(error), f"the error does not name the file: {error}")


def claim(data: bytes) -> None:
    """A claim's file: a claim that can be read is written identically."""
    try:
        read = claim_store.decode(data.decode("utf-8", "replace"))
    except VfmigrateError as error:
        check_told(error)
        return
    check(claim_store.decode(claim_store.encode(read)) == read, f"another claim when written: {read}")


def spliced(text: str, cuts: list[tuple[int, int, str]]) -> str:
    """Text with pieces replaced: start, length, replacement. The password itself is left intact."""
    secret = re.search(PASSWORD, text)
    for start, length, piece in cuts:
        at = start % (len(text) + 1)
        end = min(at + length, len(text))
        if secret is not None and at < secret.end() and end > secret.start():
            continue
        text = text[:at] + piece + text[end:]
        secret = re.search(PASSWORD, text)
    return text


#: what the fuzzer calls with bytes
Target = Callable[[bytes], None]
