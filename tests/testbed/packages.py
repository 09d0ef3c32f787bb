# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate's RPM packages, built from the work tree, and what their installation on a Debian host needs.

rpm knows nothing of a host's Debian packages, so a package without files, made from dpkg's own list, says
what is there and in which version: the dependencies of our packages are resolved for real, floors included.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.testbed import cache
from tests.testbed.run import run

CLONE = Path(__file__).resolve().parents[2]

# What a hypervisor gets: all but the SELinux module, which wants a policy to go into.
FOR_A_HOST = ("python3-vfmigrate", "vfmigrate", "libvirt-hook-vfmigrate")

STAND_IN = """\
Name: debian-packages
Version: 1
Release: 1
Summary: What this Debian host has, in rpm's words
License: none
BuildArch: noarch
Provides: /bin/sh
Provides: /usr/bin/python3
{provides}
%description
Provides what Debian packages have installed.
%files
"""


def build(output: Path, *options: str) -> dict[str, Path]:
    """Build the packages from the work tree into a directory, as `make rpm` does; returns their files by name."""
    script = CLONE / "rpm" / "build.sh"
    run(
        script,
        "all",
        "--define",
        f"vfmigrate_test_python {sys.executable}",
        *options,
        env={"RPM_OUTPUT": str(output)},
    )
    return by_name(output)


def built(output: Path) -> dict[str, Path]:
    """As `build`, from the cache when a work tree that differs in nothing but its tests was built before."""
    listed = run("git", "-C", CLONE, "ls-files", "-z").split("\0")
    listed = [name for name in listed if name and not name.startswith("tests/")]
    files = [CLONE / name for name in listed if (CLONE / name).is_file()]
    sources = {str(file.relative_to(CLONE)): cache.digest(file) for file in files}
    kept = cache.entry("product-packages", dict(sources), build_aside)
    shutil.copytree(kept, output, dirs_exist_ok=True)
    return by_name(output)


def build_aside(output: Path) -> None:
    """Build the packages for the cache."""
    output.mkdir()
    build(output)


def rebuild(source: Path, output: Path, *options: str) -> dict[str, Path]:
    """Build the packages from a source package, as a distribution's build machine does.

    Their %check is left out: it has passed where the source package was built.
    """
    script = CLONE / "rpm" / "build.sh"
    run(script, "rebuild", source, "--nocheck", *options, env={"RPM_OUTPUT": str(output)})
    return by_name(output)


def by_name(folder: Path) -> dict[str, Path]:
    """The package files in a directory by the packages' names, the source package as `source`."""
    return {
        "source" if file.name.endswith(".src.rpm") else file.name.rsplit("-", 2)[0]: file
        for file in folder.glob("*.rpm")
    }


def versions(dpkg_status: str) -> dict[str, str]:
    """The upstream versions of the installed packages in the text of dpkg's status file, by name."""
    found = {}
    for paragraph in dpkg_status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            upstream = fields["Version"].split(":")[-1].rsplit("-", 1)[0]
            found[fields["Package"]] = re.sub(r"[^A-Za-z0-9.~^]", ".", upstream)
    return found


def stand_in(installed: Mapping[str, str], names: Iterable[str], output: Path) -> Path:
    """Build the package that provides those of `names` that are installed on a Debian host."""
    output.mkdir(parents=True, exist_ok=True)
    lines = [f"Provides: {name} = {installed[name]}\n" for name in sorted(names) if name in installed]
    spec = output / "debian-packages.spec"
    spec.write_text(STAND_IN.format(provides="".join(lines)))
    run("rpmbuild", "-bb", "--define", f"_topdir {output}", "--define", f"_rpmdir {output}", spec)
    return next(output.glob("**/debian-packages-*.rpm"))
