# SPDX-License-Identifier: GPL-2.0-or-later
"""How libvirt on this host is reached: the section [libvirt] of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from vfmigrate.config import setting
from vfmigrate.config.setting import key as _key
from vfmigrate.errors import HostError, InputError

# bytes of a password file that are read; one with a longer first line has no password in it
_LONGEST_PASSWORD = 4096


@dataclass(frozen=True)
class LibvirtAccess:
    """The URI of libvirt, and the login for a libvirt that asks for one (auth_unix_rw = "sasl"), as on oVirt hosts."""

    uri: str = field(
        default="qemu:///system",
        metadata=_key(
            "uri",
            setting.TEXT,
            "The URI of the daemon's libvirt connection. The connection is never used while a hook waits.",
        ),
    )
    user: Optional[str] = field(
        default=None,
        metadata=_key(
            "user",
            setting.TEXT,
            'The name to log in with, where libvirt asks for it (auth_unix_rw = "sasl").',
            otherwise="none",
        ),
    )
    password_file: Optional[Path] = field(
        default=None,
        metadata=_key(
            "password_file",
            setting.PATH,
            "The file whose first line is the password of user. It is read for each connection.",
            otherwise="none",
        ),
    )

    def check(self) -> None:
        """Raises InputError when only one of user and password_file is set."""
        if (self.user is None) != (self.password_file is None):
            missing = "password_file" if self.password_file is None else "user"
            raise InputError(f"the key '{missing}' is missing", "set both user and password_file, or neither")

    def password(self) -> str:
        """The password of the user, read now. Raises HostError when its file has none or cannot be read."""
        try:
            with Path(self.password_file or "").open("rb") as file:
                line = file.readline(_LONGEST_PASSWORD)
        except OSError as error:
            raise HostError(
                f"the password of libvirt user '{self.user}' cannot be read: {self.password_file}: {error.strerror}",
                "check password_file in the section [libvirt] of vfmigrate.conf, and the rights of that file",
            ) from None
        password = line.rstrip(b"\r\n")
        if not password:
            raise HostError(
                f"there is no password in the first line of {self.password_file}",
                f"write the password of libvirt user '{self.user}' into it",
            )
        return password.decode("utf-8", "surrogateescape")
