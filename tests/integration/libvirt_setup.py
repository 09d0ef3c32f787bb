# SPDX-License-Identifier: GPL-2.0-or-later
"""How libvirt is set up on a namespace host: one daemon or the modular ones, without login or with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.hosts import Host

# As vdsm does it on oVirt hosts: lib/vdsm/tool/configurators/passwd.py and libvirt.py of its source.
USER = "vdsm@ovirt"
PASSWORD = "shibboleth"  # noqa: S105 - of test hosts that live for minutes
PASSWORD_FILE = "/etc/pki/vdsm/keys/libvirt_password"  # noqa: S105 - a path
DATABASE = "/etc/libvirt/passwd.db"
AUTH_FILE = "/root/auth.conf"

_COMMON = """\
host_uuid = "00000000-0000-4000-8000-{number:012d}"
log_outputs = "1:file:/var/log/libvirtd.log"
log_filters = "2:util.hook 1:util.command 2:util.pci 2:util.hostdev 2:qemu 3:*"
auth_unix_rw = "{login}"
"""
_LISTEN = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
"""
_SASL = f"""\
mech_list: scram-sha-256
sasldb_path: {DATABASE}
"""
# For virsh in tests; vfmigrated has its own section.
_AUTH = f"""\
[credentials-vdsm]
authname={USER}
password={PASSWORD}

[auth-libvirt-default]
credentials=vdsm
"""
# virtqemud asks the others while it starts; virtproxyd has the sockets of libvirtd.
_MODULAR = ("virtnodedevd", "virtnetworkd", "virtqemud", "virtproxyd")


@dataclass(frozen=True)
class LibvirtSetup:
    """Which daemons run, and whether they ask for a login; both need the packages of `root.el_host_root`."""

    modular: bool = False
    login: bool = False

    @property
    def daemons(self) -> tuple[str, ...]:
        """The daemons in the order in which they start; the last one also listens on TCP."""
        return _MODULAR if self.modular else ("libvirtd",)

    @property
    def environment(self) -> Mapping[str, str]:
        """What commands that log in need, as an administrator's virsh has it."""
        return {"LIBVIRT_AUTH_FILE": AUTH_FILE} if self.login else {}

    @property
    def configuration(self) -> str:
        """What vfmigrate.conf needs to reach it."""
        return f"[libvirt]\nuser = {USER}\npassword_file = {PASSWORD_FILE}\n" if self.login else ""

    def asks(self, daemon: str) -> bool:
        """Whether a daemon asks for a login: the one that clients use. virtqemud itself has none for its siblings."""
        return self.login and daemon in {"libvirtd", "virtqemud"}

    def configure(self, host: Host) -> None:
        """Write the configuration of each daemon, and make the user that logs in."""
        for daemon in self.daemons:
            text = _COMMON.format(number=host.number, login="sasl" if self.asks(daemon) else "none")
            listens = daemon == self.daemons[-1]
            host.write(f"/etc/libvirt/{daemon}.conf", text + (_LISTEN if listens else ""))
        if self.modular:
            # a library that is built for the modular daemons finds them itself
            host.write(
                "/etc/libvirt/libvirt.conf", 'uri_default = "qemu:///system"\nremote_mode = "direct"\n'
            )
        if self.login:
            host.write("/etc/sasl2/libvirt.conf", _SASL)
            host.write(PASSWORD_FILE, PASSWORD + "\n", 0o600)
            host.write(AUTH_FILE, _AUTH, 0o600)
            host.run("saslpasswd2", "-p", "-a", "libvirt", "-f", DATABASE, USER, stdin=PASSWORD)

    def start(self, host: Host, daemon: str, environment: Mapping[str, str]) -> None:
        """Start one of the daemons; returns when its sockets accept."""
        listen = (
            ("--listen",) if daemon == "libvirtd" else ()
        )  # virtproxyd listens by its configuration alone
        host.run(daemon, "--daemon", *listen, env={**environment, **self.environment})


MONOLITHIC = LibvirtSetup()
