# SPDX-License-Identifier: GPL-2.0-or-later
"""What root is denied, as by SELinux, at each door of the daemon: told with file and remedy, never as a bug or a "no".

The daemon runs with an object preloaded that fails calls on some paths with EACCES (tests/fakes/deny_shim.c).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.fakes import preload
from tests.integration.guests import Guest, Vf
from tests.integration.pair import SHIMS, Node, Pair, started_pair
from tests.testbed import images
from vfmigrate.os_errors import DENIED_REMEDY

pytestmark = pytest.mark.hosts

SHIM = "/usr/local/lib/deny_shim.so"
DENY = "/run/deny"
MAC = "52:54:00:00:00:02"

#: the path that is denied, and a text that at least one answer must contain
DOORS = {
    "modules.alias": ("/lib/modules/", "cannot see which VFIO drivers this kernel has: read "),
    "ovs-vswitchd.pid": (
        "/run/openvswitch/ovs-vswitchd.pid",
        "cannot see whether ovs-vswitchd runs: read /run/openvswitch/ovs-vswitchd.pid: Permission denied",
    ),
    "restart of Open vSwitch": (
        "/run/vfmigrate/openvswitch-restart",
        "cannot see whether Open vSwitch needs a restart: read ",
    ),
    "database of Open vSwitch": (
        "/run/openvswitch/db.sock",
        "ovsdb-server at unix:/run/openvswitch/db.sock does not answer: Permission denied",
    ),
    "PCI devices": ("/sys/bus/pci/devices/", "Permission denied"),
    "hook": ("/etc/libvirt/hooks", "cannot see whether libvirt finds vfmigrate's hook: read "),
    "qemu.conf": (
        "/etc/libvirt/qemu.conf",
        "cannot see how libvirt is configured to receive migrations: read ",
    ),
    "configuration": ("/etc/vfmigrate", "the configuration changed since vfmigrated read it"),
}
COMMANDS = (
    ("vfmigrate", "status"),
    ("vfmigrate", "status", "--json"),
    ("vfmigrate", "reconcile"),
    ("vfmigrate", "provision"),
    ("vfmigrate", "check", "g", "qemu+tcp://host-b/system"),
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("denied")
    with started_pair(images.host_root(), place) as pair:
        for node in (pair.a, pair.b):
            shutil.copy(preload.build("deny_shim", place), node.host.path(SHIM))
            preloaded = f"{SHIMS['LD_PRELOAD']}:{SHIM}"
            node.product.environment = {**SHIMS, "LD_PRELOAD": preloaded, "DENY": DENY}
        yield pair


@pytest.fixture
def node(hosts: Pair) -> Iterator[Node]:
    hosts.reset()
    for each in (hosts.a, hosts.b):
        each.product.start()
        each.wait_until_ready()
    hosts.a.define_guest(Guest("g", [Vf(hosts.a.vf(1), MAC, vlan=42)]))
    yield hosts.a
    hosts.a.host.path(DENY).unlink(missing_ok=True)


def answers(node: Node) -> str:
    """What all commands and a start of the guest tell."""
    told = []
    for words in (*COMMANDS, ("virsh", "start", "g")):
        done = node.host.run(*words, check=False)
        told += [done.stdout, done.stderr]
    return " ".join(" ".join(told).split())


@pytest.mark.parametrize("door", DOORS)
def test_what_is_denied_is_told_as_such(node: Node, door: str) -> None:
    path, expected = DOORS[door]
    node.product.stop()
    node.product.restart()  # with no connection left open
    node.wait_until_ready()
    node.host.write(DENY, f"{path}\n")
    told = answers(node)
    log = " ".join(node.product.log().split())
    assert expected in told or expected in log
    for untruth in (
        "has a bug",
        "Traceback",
        "ovs-vswitchd is not running",
        "does not find vfmigrate's hook",
        "there is no PCI device",
    ):
        assert untruth not in told
        assert untruth not in log


def test_a_configuration_that_is_denied_ends_the_daemon_with_a_remedy(node: Node) -> None:
    node.product.stop()
    node.host.write(DENY, "/etc/vfmigrate\n")
    done = node.host.run("vfmigrated", "--check", env=node.product.environment, check=False)
    assert done.returncode == 78
    assert DENIED_REMEDY in done.stderr
    assert "Permission denied" in done.stderr


def test_everything_is_told_again_when_it_can_be_read(node: Node) -> None:
    node.host.write(DENY, "/run/openvswitch/ovs-vswitchd.pid\n")
    assert "cannot see whether ovs-vswitchd runs" in node.host.run("vfmigrate", "status").stdout
    node.host.path(DENY).unlink()
    told = json.loads(node.host.run("vfmigrate", "status", "--json").stdout)
    assert "cannot see" not in json.dumps(told)
