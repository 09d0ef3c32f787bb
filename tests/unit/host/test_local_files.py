# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host has besides cards, on a directory that stands for its root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.host import local_files
from vfmigrate.host.local_files import LocalFiles
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import BridgeFacts, FileFacts, MigrationFacts, digest

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:50 / /srv/with\\040space rw - nfs4 server:/images rw
31 30 0:51 / /srv/with\\040space/local rw - xfs /dev/sdb rw
broken line
"""


@pytest.fixture
def host(tmp_path: Path) -> LocalFiles:
    return LocalFiles(lambda name: name == "br-data", tmp_path)


def write(root: Path, name: str, text: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_an_executable_hook_is_found(host: LocalFiles, tmp_path: Path) -> None:
    assert not host.hook()
    hook = write(tmp_path, local_files.HOOK, "#!/bin/sh\n")
    assert not host.hook()
    hook.chmod(0o755)
    assert host.hook()


def test_address_and_ports_of_migrations_are_read_from_qemu_conf(host: LocalFiles, tmp_path: Path) -> None:
    assert host.migration() == MigrationFacts()
    write(
        tmp_path,
        local_files.QEMU_CONF,
        '#migration_host = "no"\n migration_host = "10.0.0.7"  # ours\nmigration_port_min=50000\n',
    )
    assert host.migration() == MigrationFacts("10.0.0.7", 50000, 49215)
    write(tmp_path, local_files.QEMU_CONF, "migration_port_max = 999999999\n")
    assert host.migration().port_max == 49215


def test_the_kind_of_each_bridge_is_found(host: LocalFiles, tmp_path: Path) -> None:
    (tmp_path / "sys/class/net/br0/bridge").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0").mkdir()
    told = list(host.bridges(["br0", "br-data", "eth0", "../..", ""]))
    assert [each.kind for each in told] == ["linux", "openvswitch", None, None, None]
    assert told[0] == BridgeFacts("br0", "linux")


SALT = "5a17"


def look(host: LocalFiles, paths: list[str], known: KnownStorage) -> list[FileFacts]:
    """Facts about these files, asked for as another host asks."""
    asked = host_facts.file_arguments(SALT, paths)
    assert not [word for word in str(asked).split("'") if "/" in word]  # nothing of a path is in the request
    names = {digest(SALT, path): path for path in paths}
    found = host.files(SALT, asked["files"], asked["directories"], known)
    return [replace(each, path=names[each.path]) for each in found]


def test_kind_size_and_file_system_of_files_are_found(host: LocalFiles, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/mountinfo", f"22 1 8:1 / {tmp_path} rw - nfs4 server:/ rw\n")
    write(tmp_path, "srv/disk", "12345")
    paths = ["/srv/disk", "/srv/absent", "/srv", "/home/me/disk", "relative", "/a\0b"]
    assert look(host, paths, KnownStorage(disks=tuple(paths))) == [
        FileFacts("/srv/disk", True, "file", "nfs4", 5),
        FileFacts("/srv/absent", False),
        FileFacts("/srv", True, "other"),
        FileFacts("/home/me/disk"),
        FileFacts("relative"),
        FileFacts("/a\0b"),
    ]


def test_files_in_storage_pools_are_reported(host: LocalFiles, tmp_path: Path) -> None:
    write(tmp_path, "srv/pool/disk", "12345")
    write(tmp_path, "srv/pool/below/disk", "12345")
    write(tmp_path, "home/me/disk", "12345")
    paths = ["/srv/pool/disk", "/srv/pool/absent", "/srv/pool/below/disk", "/home/me/disk", "/gone/disk"]
    known = KnownStorage(directories=("/srv/pool", "/home/me", "/gone"))
    assert [each.exists for each in look(host, paths, known)] == [True, False, None, None, None]


def test_only_files_that_libvirt_names_are_reported(host: LocalFiles, tmp_path: Path) -> None:
    write(tmp_path, "etc/shadow", "secret")
    write(tmp_path, "srv/pool/disk", "12345")
    paths = ["/etc/shadow", "/etc/absent", "/srv/pool/../../etc/shadow", "/srv/pool/disk"]
    known = KnownStorage(("/srv/pool/disk",), ("/srv/pool",))
    assert [each.exists for each in look(host, paths, known)] == [None, None, None, True]


def test_the_file_system_of_a_path_is_found() -> None:
    mounted = local_files.mounts(MOUNTS)
    for path, kind in {
        "/var/lib/disk": "ext4",
        "/srv/with space/disk": "nfs4",
        "/srv/with space/local/disk": "xfs",
        "/srv/with": "ext4",
    }.items():
        assert local_files.filesystem(mounted, path) == kind
    assert local_files.filesystem({}, "/x") is None
