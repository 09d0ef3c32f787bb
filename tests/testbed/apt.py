# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's archive through this machine's apt: mirrors, versions, downloads, and roots made by mmdebstrap.

The hosts run releases of Debian other than the machine's, mostly TRIXIE. The mirrors are those that the machine's apt
is configured with; the package lists of each release are kept in a private apt state inside the cache directory, so
the machine's own apt is never touched.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import cache
from tests.testbed.releases import TRIXIE, Release
from tests.testbed.run import CommandError, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LISTS_LIFETIME_S = 24 * 3600
MERGE_USR = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh"
APT_HELPER = "/usr/lib/apt/apt-helper"


class ArchiveError(Exception):
    """The Debian archive cannot be used; the text says what to do."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of the release: `abi` in /lib/modules ("6.12.38+deb13-amd64"), `version` of its packages."""

    abi: str
    version: str

    @property
    def series(self) -> str:
        """The series its source package is named after ("6.12")."""
        return ".".join(self.abi.split(".")[:2])


@functools.cache
def own_release() -> str:
    """The code name of the release this machine runs."""
    return codename(Path("/etc/os-release").read_text())


def codename(os_release: str) -> str:
    """The code name in the text of an os-release file (os-release(5))."""
    found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release, re.MULTILINE)
    return found.group(1) if found else ""


def source_lines(targets: str, own: str, release: Release) -> list[str]:
    """The `deb` lines for a release from the machine's index targets, lines of "URI SUITE COMPONENT".

    Only Debian's own suites count: the code name `own`, its -updates and its -security.
    """
    lines = []
    for target in targets.splitlines():
        uri, suite, component = target.split()
        if component == "main" and re.fullmatch(f"{own}(-updates|-security)?", suite):
            suites = [suite.replace(own, release.codename, 1)]
            if suite == own and release.preferred:
                suites.append(release.preferred)
            lines += [f"deb [signed-by={KEYRING}] {uri} {each} main" for each in suites]
    return list(dict.fromkeys(lines))


@functools.cache
def sources(release: Release = TRIXIE) -> list[str]:
    """The `deb` lines of a release on the mirrors of this machine. Raises ArchiveError when it has none."""
    targets = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    )
    lines = source_lines(targets, own_release(), release)
    if not lines:
        raise ArchiveError(
            f"apt on this machine has no source for the suite {own_release() or '(unknown)'}: "
            "add Debian's main archive to /etc/apt/sources.list"
        )
    return lines


def settings(release: Release) -> dict[str, str]:
    """The settings of apt that a release needs, of this machine's apt and of that in its roots."""
    found = {}
    if release.outdated:
        found["Acquire::Check-Valid-Until"] = "false"
    if release.preferred:
        found["APT::Default-Release"] = release.preferred
    return found


def state_of(release: Release, kind: str) -> Path:
    """The directory of apt's private state for packages ("deb") or for source packages ("deb-src")."""
    return cache.directory() / (f"apt-{release.name}" if kind == "deb" else f"apt-{release.name}-{kind}")


@functools.cache
def options(release: Release = TRIXIE, kind: str = "deb") -> list[str]:
    """Options that make apt work on the private state of a release instead of the machine's.

    `kind` is "deb" for packages or "deb-src" for source packages.
    """
    state = state_of(release, kind)
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    listing = state / "sources.list"
    text = "\n".join(line.replace("deb", kind, 1) for line in sources(release)) + "\n"
    if not listing.exists() or listing.read_text() != text:
        listing.write_text(text)
    chosen = {
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
        # what apt makes of the lists: images of containers switch that off, and each question costs a second then
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
        "Dir::Etc::SourceList": listing,
        "Dir::Etc::SourceParts": "-",
        "Dir::Etc::PreferencesParts": "-",
        "Dir::Etc::Preferences": "-",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        **settings(release),
    }
    return [word for name, value in chosen.items() for word in ("-o", f"{name}={value}")]


def refresh(release: Release = TRIXIE, kind: str = "deb", max_age_s: float = LISTS_LIFETIME_S) -> None:
    """Download the lists of packages, or of source packages, of a release when they are older than `max_age_s` seconds.

    Without a network, lists that are there go on being used.
    """
    with cache.lock("apt"):
        stamp = state_of(release, kind) / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < max_age_s:
            return
        try:
            run("apt-get", *options(release, kind), "-q", "update", "--error-on=any")
        except CommandError as error:
            if not stamp.exists():
                raise ArchiveError(f"cannot read the package lists of {release.name}: {error}") from error
        stamp.touch()


def parse_policy(text: str) -> dict[str, str]:
    """Candidate versions by package from the output of `apt-cache policy`."""
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)", text, re.MULTILINE)
    return {package: version for package, version in found if version != "(none)"}


def candidates(packages: Sequence[str], release: Release = TRIXIE) -> dict[str, str]:
    """The versions a release would install of the packages. Raises ArchiveError when it lacks one."""
    return dict(known_candidates(tuple(packages), release))


@functools.cache
def known_candidates(packages: tuple[str, ...], release: Release) -> dict[str, str]:
    """What candidates() returns, asked once: the answer must not change within a run."""
    refresh(release)
    versions = parse_policy(run("apt-cache", *options(release), "policy", *packages))
    missing = sorted(set(packages) - set(versions))
    if missing:
        raise ArchiveError(f"{release.name} has no package {', '.join(missing)}: is the mirror complete?")
    return versions


@functools.cache
def kernel() -> Kernel:
    """The kernel that linux-image-amd64 of TRIXIE stands for."""
    refresh()
    text = run("apt-cache", *options(), "depends", "--important", "linux-image-amd64")
    found = re.search(r"Depends: linux-image-(\d\S+)", text)
    if not found:
        raise ArchiveError(f"linux-image-amd64 of {TRIXIE.name} names no kernel: {text.strip()}")
    package = f"linux-image-{found.group(1)}"
    return Kernel(abi=found.group(1), version=candidates([package])[package])


def download(package: str, version: str) -> Path:
    """The .deb of a package, from the cache or the mirror."""

    def fetch(path: Path) -> None:
        path.mkdir()
        run("apt-get", *options(), "-q", "download", f"{package}={version}", cwd=path)

    folder = cache.entry(f"deb-{package}", [package, version], fetch)
    return next(folder.glob("*.deb"))


def parse_uris(text: str) -> list[tuple[str, str, str]]:
    """The URI, file name and hash of each file from the output of `apt-get source --print-uris`."""
    return re.findall(r"^'([^']+)' (\S+) \d+ (\S+:\S+)$", text, re.MULTILINE)


def download_source(package: str, version: str, target: Path) -> None:
    """Download the archives of a source package into a directory, as apt verifies them.

    Its description and signatures stay away: the lists of the archive, which are signed, have the hashes.
    """
    refresh(kind="deb-src")
    answer = run(
        "apt-get",
        *options(kind="deb-src"),
        "-q",
        "source",
        "--only-source",
        "--print-uris",
        f"{package}={version}",
    )
    files = [file for file in parse_uris(answer) if ".tar." in file[1] and not file[1].endswith(".asc")]
    if not files:
        raise ArchiveError(
            f"{TRIXIE.name} has no source package {package} {version}: is the mirror complete?"
        )
    for uri, name, digest in files:
        run(APT_HELPER, *options(kind="deb-src"), "download-file", uri, target / name, digest)


def bootstrap(root: Path, packages: Sequence[str], log: Path, release: Release = TRIXIE) -> None:
    """Make a root of a release with the packages and nothing recommended at `root`."""
    run(
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        '--aptopt=APT::Install-Recommends "false"',
        *([f"--setup-hook={MERGE_USR}"] if release.split_usr else []),
        *(f'--aptopt={name} "{value}"' for name, value in settings(release).items()),
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        f"--include={','.join(packages)}",
        release.codename,
        root,
        *sources(release),
        env={"DEBIAN_FRONTEND": "noninteractive"},
        log=log,
    )
