# SPDX-License-Identifier: GPL-2.0-or-later
"""The RPM packages: their content and dependencies, and installing, upgrading and removing them in a host's root.

There is no systemd here; test_packages_live.py and the test bed run the scriptlets under systemd.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import images, packages
from tests.testbed.root import HOST_PACKAGES, overlaid
from tests.testbed.run import CommandError, run

CLONE = packages.CLONE
LIBRARY = "/usr/lib/python3/dist-packages/vfmigrate"
DIST_INFO = re.compile(re.escape(LIBRARY) + r"-[0-9.]+\.dist-info(/.*)?")

PLUGIN = "/usr/share/vfmigrate/vdsm_plugin"

# The files and directories of each package, without modules and vdsm's hooks. Add new files here.
LISTS = {
    "vfmigrate": """
        /etc/vfmigrate
        /etc/vfmigrate/vfmigrate.conf
        /etc/vfmigrate/vfmigrate.conf.d
        /run/vfmigrate
        /usr/bin/vfmigrate
        /usr/lib/systemd/catalog/vfmigrate.catalog
        /usr/lib/systemd/system-preset/85-vfmigrate.preset
        /usr/lib/systemd/system/vfmigrate-pci.service
        /usr/lib/systemd/system/vfmigrate-pci.socket
        /usr/lib/systemd/system/vfmigrate-early.service
        /usr/lib/systemd/system/vfmigrate-provision.service
        /usr/lib/systemd/system/vfmigrate-provision@.service
        /usr/lib/systemd/system/vfmigrated.service
        /usr/lib/systemd/system/vfmigrated.socket
        /usr/lib/tmpfiles.d/vfmigrate.conf
        /usr/lib/udev/rules.d/70-vfmigrate.rules
        /usr/libexec/vfmigrate-pci
        /usr/sbin/vfmigrated
        /usr/share/bash-completion/completions/vfmigrate
        /usr/share/bash-completion/completions/vfmigrated
        /usr/share/doc/vfmigrate
        /usr/share/man/man5/vfmigrate.conf.5.gz
        /usr/share/man/man8/vfmigrate.8.gz
        /usr/share/man/man8/vfmigrated.8.gz
    """,
    "python3-vfmigrate": f"""
        {LIBRARY}
        /usr/share/licenses/python3-vfmigrate
        /usr/share/licenses/python3-vfmigrate/LICENSE
    """,
    "libvirt-hook-vfmigrate": """
        /etc/libvirt/hooks/qemu.d
        /etc/libvirt/hooks/qemu.d/50-vfmigrate
    """,
    "vdsm-hook-vfmigrate": f"""
        /etc/vfmigrate/vfmigrate.conf.d/50-vdsm.conf
        /usr/share/vfmigrate
        {PLUGIN}
        {PLUGIN}/vfmigrate_vdsm
    """,
    "vfmigrate-guest": """
        /usr/bin/vfmigrate-guest
        /usr/lib/python3/dist-packages/vfmigrate_guest
        /usr/share/bash-completion/completions/vfmigrate-guest
        /usr/share/licenses/vfmigrate-guest
        /usr/share/licenses/vfmigrate-guest/LICENSE
        /usr/share/man/man8/vfmigrate-guest.8.gz
    """,
    "vfmigrate-selinux": """
        /usr/share/licenses/vfmigrate-selinux
        /usr/share/licenses/vfmigrate-selinux/LICENSE
        /usr/share/selinux/packages/targeted/vfmigrate.pp.bz2
        /var/lib/selinux/targeted/active/modules/200/vfmigrate
    """,
}

# The distribution's package of each module that is imported from outside the standard library.
DISTRIBUTION = {
    "dbus": "python3-dbus",
    "libvirt": "python3-libvirt",
    "lxml": "python3-lxml",
    "ovs": "python3-openvswitch",
    "pyroute2": "python3-pyroute2",
    "rich": "python3-rich",
}
# What is imported only where it is used, with an error that names the package if it is missing.
SUGGESTED = {"ovirtsdk4": "python3-ovirt-engine-sdk4"}
# What the command can do without.
RECOMMENDED = {"rich": "python3-rich"}
# The programs that daemon, command and completion run, and the distribution's package of each.
PROGRAMS = {"mstconfig": "mstflint", "virsh": "libvirt-client"}
# The program that the daemon runs and cannot be without, and its package.
JOURNALCTL, SYSTEMD = "journalctl", "systemd"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return packages.build(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    status = (images.host_root() / "var/lib/dpkg/status").read_text()
    return packages.stand_in(packages.versions(status), HOST_PACKAGES, tmp_path_factory.mktemp("stand-in"))


def files(package: Path) -> list[str]:
    return run("rpm", "-qpl", package).split()


def regular_files(package: Path) -> list[str]:
    listed = run("rpm", "-qp", "--queryformat", r"[%{FILEMODES:octal} %{FILENAMES}\n]", package)
    return [line.split()[1] for line in listed.splitlines() if line.startswith(("0100", "100"))]


def requirements(package: Path) -> list[str]:
    return run("rpm", "-qp", "--requires", package).splitlines()


def expected(name: str) -> set[str]:
    listed = set(LISTS[name].split())
    if name == "python3-vfmigrate":
        library = CLONE / "lib/vfmigrate"
        modules = {module.relative_to(library) for module in library.rglob("*.py")}
        listed |= {str(Path(LIBRARY, each)) for module in modules for each in (module, *module.parents)}
    if name == "vfmigrate-guest":
        guest = (CLONE / "lib/vfmigrate_guest").glob("*.py")
        listed |= {f"/usr/lib/python3/dist-packages/vfmigrate_guest/{module.name}" for module in guest}
    if name == "vdsm-hook-vfmigrate":
        plugin = (CLONE / "vdsm_plugin/vfmigrate_vdsm").glob("*.py")
        listed |= {f"{PLUGIN}/vfmigrate_vdsm/{module.name}" for module in plugin}
        listed |= {f"/usr/libexec/vdsm/hooks/{point}/50_vfmigrate" for point in vdsm_points()}
    return listed


def vdsm_points() -> list[str]:
    """The hook points that `make install-vdsm` names."""
    told = re.search(r"^VDSM_POINTS = ((?:.*\\\n)*.*)", (CLONE / "Makefile").read_text(), re.MULTILINE)
    assert told
    return told.group(1).replace("\\", " ").split()


def imported() -> set[str]:
    """What the library imports from outside itself and the standard library."""
    names: set[str] = set()
    for module in (CLONE / "lib/vfmigrate").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return {name for name in names - {"vfmigrate"} if not in_standard_library(name)}


def in_standard_library(name: str) -> bool:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return False
    return found.origin in {"built-in", "frozen"} or (
        found.origin.startswith(sysconfig.get_path("stdlib")) and "-packages" not in found.origin
    )


@pytest.mark.parametrize("name", sorted(LISTS))
def test_a_package_has_its_files_with_their_modes(built: dict[str, Path], name: str) -> None:
    found = {
        file
        for file in files(built[name])
        if not DIST_INFO.fullmatch(file) and not file.startswith("/usr/share/doc/vfmigrate/")
    }
    assert found == expected(name)


def test_only_the_expected_packages_are_built(built: dict[str, Path]) -> None:
    assert set(built) == {*LISTS, "source"}


def test_no_file_belongs_to_two_packages(built: dict[str, Path]) -> None:
    owned = [file for name, package in built.items() if name != "source" for file in files(package)]
    assert sorted(owned) == sorted(set(owned))


def test_vdsms_hooks_are_executable_and_their_directories_are_not_packaged(built: dict[str, Path]) -> None:
    listed = run(
        "rpm", "-qp", "--queryformat", r"[%{FILEMODES:perms} %{FILENAMES}\n]", built["vdsm-hook-vfmigrate"]
    )
    below = [line.split() for line in listed.splitlines() if "/vdsm/hooks" in line]
    assert below
    assert {mode for mode, _ in below} == {"-rwxr-xr-x"}


def test_make_install_installs_the_same_files(built: dict[str, Path], tmp_path: Path) -> None:
    run("make", "--silent", "-C", CLONE, "install", f"DESTDIR={tmp_path}")
    installed = {f"/{file.relative_to(tmp_path)}" for file in tmp_path.rglob("*") if file.is_file()}
    packaged = {file for name in packages.FOR_A_HOST for file in regular_files(built[name])}
    apart = {
        file
        for file in packaged
        if DIST_INFO.fullmatch(file) or "/share/doc/" in file or "/licenses/" in file
    }
    assert installed == {re.sub(r"^(/usr/share/man/.*)\.gz$", r"\1", file) for file in packaged - apart}


def test_the_library_needs_what_it_imports_and_nothing_else(built: dict[str, Path]) -> None:
    needed = {
        match.group()
        for line in requirements(built["python3-vfmigrate"])
        for match in [re.search(r"python3-[a-z0-9]+", line)]
        if match
    }
    optional = SUGGESTED.keys() | RECOMMENDED.keys()
    assert needed == {DISTRIBUTION[name] for name in imported() - optional}


def test_what_the_library_can_do_without_is_suggested_or_recommended(built: dict[str, Path]) -> None:
    for how, wanted in (("--suggests", SUGGESTED), ("--recommends", RECOMMENDED)):
        told = run("rpm", "-qp", how, built["python3-vfmigrate"]).split()
        assert set(told) == set(wanted.values())
        assert wanted.keys() <= imported()


def test_the_programs_that_are_run_are_recommended(built: dict[str, Path]) -> None:
    recommended = run("rpm", "-qp", "--recommends", built["vfmigrate"]).splitlines()
    assert sorted(each.split()[0].lstrip("(") for each in recommended) == sorted(
        {"openvswitch", *PROGRAMS.values()}
    )
    sources = [*(CLONE / "lib/vfmigrate").rglob("*.py"), *(CLONE / "completion").iterdir()]
    texts = {file: file.read_text() for file in sources}
    required = run("rpm", "-qp", "--requires", built["vfmigrate"]).splitlines()
    assert SYSTEMD in {each.split()[0] for each in required}
    for program in (*PROGRAMS, JOURNALCTL):
        assert any(program in text for text in texts.values()), f"nothing runs {program}"
    starting = {file.parent.name for file, text in texts.items() if "subprocess" in text}
    assert starting == {"cards", "daemon"}, (
        "name the programs that these run in PROGRAMS, and recommend their packages"
    )


def test_every_document_that_is_linked_is_packaged(built: dict[str, Path]) -> None:
    documents = [file for file in files(built["vfmigrate"]) if file.startswith("/usr/share/doc/vfmigrate/")]
    broken = []
    for document in documents:
        if document.endswith(".md"):
            source = CLONE / Path(document).relative_to("/usr/share/doc/vfmigrate")
            for link in re.findall(r"\]\(([^)#\s]+)", source.read_text()):
                target = os.path.normpath(Path(document).parent / link)
                if "://" not in link and target not in documents:
                    broken.append(f"{document}: {link}")
    assert broken == []


def test_two_builds_are_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    again = packages.rebuild(built["source"], tmp_path)
    assert set(again) == set(LISTS)
    for name, package in again.items():
        assert package.read_bytes() == built[name].read_bytes(), f"{name} differs"


def test_rpmlint_passes(built: dict[str, Path]) -> None:
    said = run("rpmlint", "-c", CLONE / "rpm/rpmlint.toml", *sorted(built.values()))
    assert "0 errors, 0 warnings" in said, said


class Root:
    """A Debian host's root in which packages are installed; nothing runs in it."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def rpm(self, *words: str | Path) -> str:
        """Run the host's rpm; package files are copied to the host."""
        inside = []
        for word in words:
            if isinstance(word, Path):
                shutil.copy(word, self.tree / "srv")
            inside.append(f"/srv/{word.name}" if isinstance(word, Path) else word)
        return run("chroot", self.tree, "rpm", *inside)

    def files(self) -> set[str]:
        """All files, links and directories, except the package database's."""
        # directories that exist on hosts whose distribution uses rpm and installs manual pages
        apart = ("srv", "var/lib/rpm", "usr/share/licenses", "usr/share/man")
        found = (str(path.relative_to(self.tree)) for path in self.tree.rglob("*"))
        return {name for name in found if not name.startswith(apart)}

    def path(self, name: str) -> Path:
        return self.tree / name.lstrip("/")


@pytest.fixture
def root(tmp_path: Path, stand_in: Path) -> Iterator[Root]:
    with overlaid(images.host_root(), tmp_path / "overlay") as tree:
        root = Root(tree)
        root.rpm("-U", stand_in)
        yield root


def for_a_host(built: dict[str, Path]) -> list[Path]:
    return [built[name] for name in packages.FOR_A_HOST]


def test_installation_without_the_dependencies_is_refused(built: dict[str, Path], root: Root) -> None:
    root.rpm("-e", "--nodeps", "debian-packages")
    with pytest.raises(CommandError) as refusal:
        root.rpm("-U", *for_a_host(built))
    assert "python3-lxml >= 4" in refusal.value.output


def test_installing_and_removing_leaves_the_root_as_it_was(built: dict[str, Path], root: Root) -> None:
    before = root.files()
    root.rpm("-U", *for_a_host(built))
    assert root.rpm("-V", *packages.FOR_A_HOST) == ""
    for wants in (
        "multi-user.target.wants/vfmigrated.service",
        "sockets.target.wants/vfmigrated.socket",
        "sockets.target.wants/vfmigrate-pci.socket",
    ):
        assert root.path(f"/etc/systemd/system/{wants}").is_symlink(), wants
    assert run("chroot", root.tree, "vfmigrate", "--version").strip()
    assert run("chroot", root.tree, "vfmigrated", "--check") == ""
    root.rpm("-e", *packages.FOR_A_HOST)
    assert root.files() == before


def test_the_daemon_exits_as_its_manual_page_says(built: dict[str, Path], root: Root) -> None:
    root.rpm("-U", *for_a_host(built))

    def status(*words: str) -> int:
        command = ["chroot", str(root.tree), "vfmigrated", *words]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert status("--nonsense") == 2
    assert status("--claims", "/etc/vfmigrate/vfmigrate.conf/claims") == 69
    root.path("/etc/vfmigrate/vfmigrate.conf").write_text("[nonsense]\n")
    assert status("--check") == 78


def test_changed_configuration_survives_upgrade_and_removal(
    built: dict[str, Path], root: Root, tmp_path: Path
) -> None:
    newer = packages.rebuild(built["source"], tmp_path / "newer", "--define", "dist .deb2")
    root.rpm("-U", *for_a_host(built))
    configuration = root.path("/etc/vfmigrate/vfmigrate.conf")
    configuration.write_text("[daemon]\nreaders = nagios\n")
    root.path("/etc/systemd/system/sockets.target.wants/vfmigrated.socket").unlink()
    root.rpm("-U", *for_a_host(newer))
    assert set(root.rpm("-q", "--queryformat", "%{RELEASE} ", *packages.FOR_A_HOST).split()) == {"1.deb2"}
    assert "nagios" in configuration.read_text()
    assert not root.path("/etc/systemd/system/sockets.target.wants/vfmigrated.socket").is_symlink()
    hooks = root.path("/etc/libvirt/hooks/qemu.d")
    assert [file.name for file in hooks.iterdir()] == ["50-vfmigrate"], "libvirt would run all of these"
    root.rpm("-e", *packages.FOR_A_HOST)
    saved = [file.name for file in root.path("/etc/vfmigrate").iterdir()]
    assert saved == ["vfmigrate.conf.rpmsave"]
    assert "nagios" in root.path("/etc/vfmigrate/vfmigrate.conf.rpmsave").read_text()


def test_other_hooks_survive_removal(built: dict[str, Path], root: Root) -> None:
    root.rpm("-U", *for_a_host(built))
    other = root.path("/etc/libvirt/hooks/qemu.d/90-site")
    other.write_text("#!/bin/sh\n")
    root.rpm("-e", "libvirt-hook-vfmigrate")
    assert [file.name for file in other.parent.iterdir()] == ["90-site"]
