# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration files: what they mean, and every mistake told with file, section and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.config import configuration
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.config.pool import UPLINK_OF_PF
from vfmigrate.errors import ConfigError
from vfmigrate.model.pci import PciAddress

POOL = "[pool data]\npf = 0000:e1:00.0\nbridge = br-data\n"


def write(directory: Path, text: str, **drop_ins: str) -> Path:
    path = directory / "vfmigrate.conf"
    path.write_text(text)
    (directory / "vfmigrate.conf.d").mkdir(exist_ok=True)
    for name, content in drop_ins.items():
        (directory / "vfmigrate.conf.d" / f"{name}.conf").write_text(content)
    return path


def test_pf_and_bridge_are_enough_for_a_pool(tmp_path: Path) -> None:
    loaded = configuration.load(write(tmp_path, POOL))
    pool = loaded.pools["data"]
    assert pool.pfs == (PciAddress(0, 0xE1, 0, 0),)
    assert (pool.bridge, pool.vlan, pool.announce) == ("br-data", None, True)
    assert loaded.pool_of(PciAddress(0, 0xE1, 0, 0)) == pool
    assert loaded.pool_of(PciAddress(0, 0xE1, 0, 1)) is None


def test_a_missing_file_means_no_pools(tmp_path: Path) -> None:
    assert configuration.load(tmp_path / "absent.conf").pools == {}


def test_each_key_of_daemon_and_pool_is_read(tmp_path: Path) -> None:
    text = (
        "[libvirt]\nuri = test:///default\nuser = vdsm@ovirt\npassword_file = /run/secret\n"
        "[daemon]\nreaders = nagios\nclients = vdsm\nclaim_timeout = 10\n"
        "[pool data]\npf = 0000:e1:00.0, 0000:e1:00.1\nbridge = br\n"
        "vlan = 42\nvlans = 43 100-102\nmtu = 9000\nannounce = no\n"
    )
    loaded = configuration.load(write(tmp_path, text))
    pool = loaded.pools["data"]
    assert loaded.libvirt == LibvirtAccess("test:///default", "vdsm@ovirt", Path("/run/secret"))
    assert [loaded.readers, loaded.clients] == [{"nagios"}, {"vdsm"}]
    assert loaded.claim_timeout == 10
    assert len(pool.pfs) == 2
    assert [vlan for vlan in range(200) if pool.allows_vlan(vlan)] == [42, 43, 100, 101, 102]
    assert (pool.mtu, pool.announce) == (9000, False)


def test_keys_of_provisioning_are_read(tmp_path: Path) -> None:
    text = (
        "vfs = 16\nmsix = 12\nuplink = bond0\nnetwork = data-vfs\nfirmware_min = 28.41.1000\n"
        "restart_openvswitch = yes\nrepresentor_names = stable\n"
    )
    pool = configuration.load(write(tmp_path, POOL + text)).pools["data"]
    assert (pool.vfs, pool.msix, pool.uplink, pool.libvirt_network) == (16, 12, "bond0", "data-vfs")
    assert (pool.firmware_min, pool.restart_openvswitch) == ((28, 41, 1000), True)
    assert pool.representor_names == "stable"


def test_keys_of_provisioning_have_defaults(tmp_path: Path) -> None:
    pool = configuration.load(write(tmp_path, POOL)).pools["data"]
    assert (pool.vfs, pool.msix, pool.uplink) == (None, None, UPLINK_OF_PF)
    assert (pool.libvirt_network, pool.firmware_min, pool.max_migrating) == ("vfmigrate-data", None, None)
    assert (pool.restart_openvswitch, pool.representor_names) == (False, "kernel")


def test_network_none_gives_the_pool_no_network(tmp_path: Path) -> None:
    pool = configuration.load(write(tmp_path, POOL + "network = none\n")).pools["data"]
    assert pool.libvirt_network is None


def test_later_drop_ins_override_earlier_files(tmp_path: Path) -> None:
    path = write(tmp_path, POOL, a="[pool data]\nvlan = 1\nmtu = 1400\n", b="[pool data]\nvlan = 2\n")
    pool = configuration.load(path).pools["data"]
    assert (pool.vlan, pool.mtu, pool.bridge) == (2, 1400, "br-data")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            POOL + "vlam = 3\n",
            "[pool data] unknown key 'vlam' (did you mean 'vlan'?); the keys are announce, bridge",
        ),
        (POOL + "vlan = 5000\n", "[pool data] vlan: '5000' is not a number from 1 to 4094"),
        (POOL + "vlans = all 42\n", "[pool data] vlans: 'all' is not a VLAN or a range"),
        (POOL + "vlans = 1-\n", "[pool data] vlans: '1-' is not a VLAN or a range"),
        (POOL + "vlans = 9-3\n", "[pool data] vlans: '9-3' is not a VLAN or a range"),
        (POOL + "announce = perhaps\n", "[pool data] announce: 'perhaps' is neither yes nor no"),
        ("[pool data]\npf = e1:00.0\nbridge = b\n", "[pool data] pf: 'e1:00.0' is not a PCI address"),
        ("[pool data]\nbridge = b\n", "[pool data] the key 'pf' is missing"),
        ("[pool data]\npf = 0000:e1:00.0\n", "[pool data] the key 'bridge' is missing"),
        (
            "[pool data]\npf = 0000:e1:00.0\nbridge = a-bridge-name-too-long\n",
            "bridge: 'a-bridge-name-too-long' is not a valid name for a bridge",
        ),
        (POOL + POOL.replace("data", "more"), "[pool more] pf: 0000:e1:00.0 already belongs to pool 'data'"),
        (POOL + "vfs = 0\n", "[pool data] vfs: '0' is not a number from 1 to 4095"),
        (POOL + "msix = many\n", "[pool data] msix: 'many' is not a number from 1 to 2048"),
        (POOL + "uplink = a/b\n", "[pool data] uplink: 'a/b' is not a valid name for a network device"),
        (POOL + "uplink =\n", "[pool data] uplink: '' is not a valid name for a network device"),
        (POOL + "network = a b\n", "[pool data] network: 'a b' is not a valid name for a libvirt network"),
        (POOL + "firmware_min = new\n", "[pool data] firmware_min: 'new' is not a firmware version"),
        (
            POOL + "restart_openvswitch = maybe\n",
            "[pool data] restart_openvswitch: 'maybe' is neither yes nor no",
        ),
        (
            POOL + "representor_names = mine\n",
            "[pool data] representor_names: 'mine' is not one of kernel, stable",
        ),
        (
            POOL + "[pool more]\npf = 0000:e1:00.1\nbridge = b\nnetwork = vfmigrate-data\n",
            "[pool more] network: 'vfmigrate-data' is the network of pool 'data' already",
        ),
        ("[pool a b]\npf = 0000:e1:00.0\nbridge = b\n", "'a b' is not a valid name for a pool"),
        (POOL + "mtu =\n", "[pool data] mtu: '' is not a number from 68 to 65535"),
        ("[daemon]\novsdb =\n", "[daemon] ovsdb: the value is missing"),
        ("[libvirt]\nuri =\n", "[libvirt] uri: the value is missing"),
        ("[libvirt]\nuser = vdsm@ovirt\n", "[libvirt] the key 'password_file' is missing; set both"),
        ("[libvirt]\npassword_file = /p\n", "[libvirt] the key 'user' is missing; set both"),
        ("[libvirt]\npassword_file = p\n", "[libvirt] password_file: 'p' is not the path of a file"),
        ("[daemom]\n", "[daemom] unknown section; the sections are"),
        ("[daemon]\nclaim_timeout = 0\n", "[daemon] claim_timeout: '0' is not a number from 5 to 86400"),
        ("vlan = 3\n", "File contains no section headers"),
        (POOL + POOL, "section 'pool data' already exists"),
    ],
)
def test_errors_name_file_section_and_key(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        configuration.load(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_an_error_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    path = write(tmp_path, POOL, site="[pool data]\nmtu = big\n")
    with pytest.raises(ConfigError, match=r"vfmigrate\.conf\.d/site\.conf: \[pool data\] mtu"):
        configuration.load(path)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "vfmigrate.conf"
    path.write_text(text, encoding="utf-8", errors="replace")
    told = ""
    try:
        configuration.load(path)
    except ConfigError as error:
        told = str(error)
    assert "\n" not in told
