# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate on the test hosts, installed from its RPM packages and from nothing else."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.testbed import packages
from tests.testbed.guest import POOL
from tests.testbed.host import INSIDE_RUN, PF, Host
from tests.testbed.namespace import RUN
from tests.testbed.provision import BRIDGE, VFS
from tests.testbed.root import host_root
from tests.testbed.run import run

CONFIG_PATH = "/etc/vfmigrate/vfmigrate.conf"

CONFIG = f"""\
[pool {POOL}]
pf = {PF}
vfs = {VFS}
bridge = {BRIDGE}
vlans = 42-43
"""

# What is built here, the hosts see as REPOSITORY.
BUILT = RUN / "shared" / "packages"
REPOSITORY = Path("/testbed/packages")

LIBRARY = "/usr/lib/python3/dist-packages/vfmigrate"

RPM_TIMEOUT_S = 180


def stage() -> None:
    """Build the packages from this clone where both hosts find them."""
    packages.built(BUILT)
    compile_library()


def compile_library() -> None:
    """Compile the library with the hosts' Python.

    A distribution's packages have the byte code in them. Ours are built here, where Python may be of another version;
    and the daemon, to which /usr is read-only, would compile what it imports at each of its starts.
    """
    library = BUILT / "library"
    shutil.copytree(
        packages.CLONE / "lib/vfmigrate",
        library,
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    inside = INSIDE_RUN / library.relative_to(RUN)
    compiler = ("python3", "-m", "compileall", "-q", "-d", LIBRARY, "--invalidation-mode", "unchecked-hash")
    run("chroot", host_root(), *compiler, inside)
    # one file: a host takes long to open each of many
    compiled = sorted(folder.relative_to(library) for folder in library.rglob("__pycache__"))
    run("tar", "--create", "--file", BUILT / "bytecode.tar", "--directory", library, *compiled)


def stage_newer() -> None:
    """Build the same again as a newer release."""
    source = packages.by_name(BUILT)["source"]
    packages.rebuild(source, BUILT / "newer", "--define", "dist .deb2")


def files(folder: str = "") -> list[str]:
    """The package files that a host gets, as it sees them."""
    found = packages.by_name(BUILT / folder)
    return [str(REPOSITORY / folder / found[name].name) for name in packages.FOR_A_HOST]


def rpm(host: Host, *words: str) -> str:
    """Run rpm on a host; scriptlets run under its systemd."""
    return host.run(f"rpm {shlex.join(words)}", timeout=RPM_TIMEOUT_S)


def install(host: Host, *options: str) -> None:
    """Install the packages, with more options for rpm, configure the pool and have the daemon read that."""
    rpm(host, "-U", *options, *files())
    host.run(f"tar --extract --file {REPOSITORY}/bytecode.tar --directory {LIBRARY}")
    host.write(CONFIG_PATH, CONFIG)
    host.run("systemctl restart vfmigrated.service")


def replace(host: Host) -> None:
    """Install the packages over others of the same version."""
    install(host, "--force")


def upgrade(host: Host) -> None:
    """Upgrade to what stage_newer() built."""
    rpm(host, "-U", *files("newer"))


def remove(host: Host, names: Sequence[str] = packages.FOR_A_HOST) -> None:
    """Remove the packages."""
    rpm(host, "-e", *names)


def set_announce(host: Host, on: bool) -> None:
    """Switch the announce on or off on a host; the daemon reads its configuration when it starts.

    Does not wait for that: systemd keeps the socket, and whoever asks until then waits.
    """
    host.write(CONFIG_PATH, CONFIG if on else CONFIG + "announce = no\n")
    host.run("systemctl --no-block restart vfmigrated.service")


def version(host: Host) -> str:
    """The version of the installed package, from rpm, which is quicker on an emulated host than vfmigrate."""
    return host.run("rpm --query --queryformat '%{VERSION}' vfmigrate")
