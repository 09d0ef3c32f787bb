# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's whole SELinux policy with vfmigrate's module in it, as semodule makes it on a host, and what it allows.

The module is compiled with the headers of that policy. Another policy, such as that of a Fedora or EL host, is asked
instead when VFMIGRATE_SELINUX_POLICY names a directory with copies of it: `policy` (/sys/fs/selinux/policy) and
`contexts` (/etc/selinux/targeted/contexts), with the module loaded.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.integration.namespaces import Word
from tests.testbed import cache, root
from tests.testbed.run import run

SOURCES = Path(__file__).parents[2] / "rpm/selinux"
RULES = Path(__file__).with_name("selinux_rules.py")
#: the interpreter that has setools
SYSTEM_PYTHON = "/usr/bin/python3"
DOMAINS = ("vfmigrated_t", "vfmigrate_pci_t", "vfmigrate_hook_t")
RECIPE = 1

# Runs in a mount namespace of its own: $1 the root, $2 the sources, $3 a directory for the overlay, $4 the output.
# 33 is the newest version of the binary format that Debian 12's setools read.
_LOAD = """\
set -e
mount -t tmpfs tmpfs "$3"
mkdir "$3/upper" "$3/work" "$3/tree"
mount -t overlay -o "lowerdir=$1,upperdir=$3/upper,workdir=$3/work" overlay "$3/tree"
mount -t proc proc "$3/tree/proc"
cp -r "$2" "$3/tree/root/module"
echo 'policy-version = 33' >> "$3/tree/etc/selinux/semanage.conf"
chroot "$3/tree" make -C /root/module -f /usr/share/selinux/devel/Makefile vfmigrate.pp
chroot "$3/tree" semodule --store default --noreload --install /root/module/vfmigrate.pp
cp "$3/tree/etc/selinux/default/policy/policy.33" "$4/policy"
cp -r "$3/tree/etc/selinux/default/contexts" "$4/contexts"
rm -f "$4"/contexts/files/*.bin
"""


@dataclass(frozen=True)
class Rules:
    """What a policy allows a domain: permissions, and the types of what it makes, both by "TYPE CLASS"."""

    allowed: Mapping[str, frozenset[str]]
    made: Mapping[str, str]


@functools.cache
def directory() -> Path:
    """The directory with `policy` and `contexts`."""
    other = os.environ.get("VFMIGRATE_SELINUX_POLICY")
    if other:
        return Path(other)
    lower = root.el_host_root()

    def load(path: Path) -> None:
        path.mkdir()
        work = cache.directory() / "selinux-linked.work"
        work.mkdir(exist_ok=True)
        script = ("sh", "-c", _LOAD, "sh", lower, SOURCES, work, path)
        run("unshare", "--mount", "--propagation", "private", *script, log=cache.log("selinux-linked"))

    return cache.entry("selinux-linked", [RECIPE, lower.name, cache.digest(SOURCES), _LOAD], load)


def policy() -> Path:
    """The binary policy, as the kernel would load it."""
    return directory() / "policy"


@functools.cache
def _told() -> dict[str, dict[str, object]]:
    return dict(json.loads(run(SYSTEM_PYTHON, RULES, policy(), *DOMAINS)))


@functools.cache
def rules(domain: str) -> Rules:
    """What the policy allows one of DOMAINS."""
    told = _told()["domains"][domain]
    assert isinstance(told, dict)
    return Rules({key: frozenset(value) for key, value in told["allowed"].items()}, told["made"])


def is_type(name: str) -> bool:
    """Whether the policy has a type."""
    return name in _told()["types"]


def generated_type(filesystem: str, path: str) -> str:
    """The type of a file in a file system without labels; `path` is below its root."""
    table = _told()["genfs"]
    prefixes = [
        key.split(" ", 1)[1]
        for key in table
        if key.startswith(f"{filesystem} ") and path.startswith(key.split(" ", 1)[1])
    ]
    return str(table[f"{filesystem} {max(prefixes, key=len)}"])


def labels(paths: Iterable[str], kind: str) -> dict[str, str]:
    """The types of files of one class, by their paths, as restorecon would label them."""
    wanted = sorted(set(paths))
    if not wanted:
        return {}
    contexts = directory() / "contexts/files/file_contexts"
    words: list[Word] = ["matchpathcon", "-m", _MODES.get(kind, "file"), "-f", contexts, *wanted]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        path, _, context = line.partition("\t")
        found[path] = context.split(":")[2] if context.count(":") >= 2 else ""
    return found


_MODES = {
    "dir": "dir",
    "lnk_file": "link",
    "sock_file": "socket",
    "chr_file": "char",
    "blk_file": "block",
    "fifo_file": "pipe",
}
