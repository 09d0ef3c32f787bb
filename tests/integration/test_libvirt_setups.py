# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt as Enterprise Linux and oVirt hosts have it: modular daemons, and a login by SASL.

The modular daemons are built from Debian's source of libvirt (tests/testbed/modular_libvirt.py).
"""

from __future__ import annotations

import json
from typing import Optional

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.libvirt_setup import PASSWORD_FILE, LibvirtSetup
from tests.integration.pair import Node, Pair, pair_of_module, reset_and_ready
from tests.integration.test_migration import vfs_of
from tests.integration.test_remote import ask
from tests.testbed import root

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
FORMS = ["interface", "hostdev", "network"]
NETWORK = "vfmigrate-data"


_modular = pair_of_module(root.el_host_root, libvirt=LibvirtSetup(modular=True))
_asking = pair_of_module(root.el_host_root, libvirt=LibvirtSetup(login=True))


@pytest.fixture
def modular(_modular: Pair) -> Pair:
    """Two hosts with libvirt's modular daemons, vfmigrate running and its pools ready."""
    return reset_and_ready(_modular)


@pytest.fixture
def asking(_asking: Pair) -> Pair:
    """Two hosts whose libvirt asks for a login, as vdsm sets it up; vfmigrate runs and its pools are ready."""
    return reset_and_ready(_asking)


def there_and_back(pair: Pair, form: str) -> None:
    """A guest with a VF migrates from A to B and back; nothing is left behind on either host."""
    a, b = pair.a, pair.b
    empty = a.state(), b.state()
    if form == "network":
        for node in (a, b):
            node.make_network("data")
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42, form=form)]))
    a.wait_until_settled()
    for source, target in ((a, b), (b, a)):
        outcome = source.migrate("g", target)
        assert outcome.status == 0, outcome.error
        (vf,) = vfs_of(target.host.virsh("dumpxml", "g"))
        assert target.card.function(vf).driver == "mlx5_vfio_pci"
        target.wait_until_settled()
    a.host.virsh("destroy", "g")
    for node, state in zip((a, b), empty):
        node.become(state)


@pytest.mark.parametrize("form", FORMS)
def test_a_guest_migrates_between_hosts_with_modular_daemons(modular: Pair, form: str) -> None:
    there_and_back(modular, form)


@pytest.mark.parametrize("form", FORMS)
def test_a_guest_migrates_between_hosts_that_ask_for_a_login(asking: Pair, form: str) -> None:
    there_and_back(asking, form)


def problems(node: Node) -> list[str]:
    """What `vfmigrate status` says is wrong with the host as a whole."""
    answer = json.loads(node.host.run("vfmigrate", "status", "--json").stdout)
    found = answer["problems"]
    assert isinstance(found, list)
    return found


def test_networks_are_asked_again_after_virtnetworkd_restarted(modular: Pair) -> None:
    """The connection to virtqemud stays open, and is dead for networks: the daemon has to take another one."""
    node = modular.a
    node.host.stop("/run/virtnetworkd.pid", "KILL")
    node.reconcile(fails=True)
    (told,) = problems(node)
    assert told.startswith("libvirt's networks cannot be asked: ")
    assert told.endswith("; see systemctl status virtnetworkd libvirtd")

    node.host.libvirt.start(node.host, "virtnetworkd", {})

    wait_for("the daemon to be connected to the new virtnetworkd", lambda: problems(node) == [])
    node.host.virsh("net-destroy", NETWORK)
    node.reconcile()
    assert NETWORK in node.host.virsh("net-list", "--name").split()
    # and its events arrive: this request comes through the network's metadata
    assert ask(modular.b, node, "facts")["result"]["host"] == node.host.name


def test_without_virtnetworkd_a_guest_with_a_vf_migrates_all_the_same(modular: Pair) -> None:
    a, b = modular.a, modular.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    a.wait_until_settled()
    b.host.stop("/run/virtnetworkd.pid", "KILL")
    try:
        outcome = a.migrate("g", b)
        assert outcome.status == 0, outcome.error
        b.wait_until_settled()
    finally:
        b.host.libvirt.start(b.host, "virtnetworkd", {})


def said(node: Node, event: str) -> list[str]:
    return [line for line in node.product.log().splitlines() if line.startswith(f"<4>{event}: ")]


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("wrong", "authentication failed"),
        (None, f"the password of libvirt user 'vdsm@ovirt' cannot be read: {PASSWORD_FILE}: No such file"),
        ("", f"there is no password in the first line of {PASSWORD_FILE}"),
    ],
    ids=["wrong", "no file", "empty file"],
)
def test_a_login_that_fails_is_reported_once_and_tried_again(
    asking: Pair, password: Optional[str], told: str
) -> None:
    node = asking.a
    node.product.stop()
    right = node.host.path(PASSWORD_FILE).read_text()
    if password is None:
        node.host.path(PASSWORD_FILE).unlink()
    else:
        node.host.write(PASSWORD_FILE, password)
    try:
        node.product.start()
        wait_for("the failed login to be reported", lambda: bool(problems(node)))
        for _ in range(2):
            node.reconcile(fails=True)
        (problem,) = problems(node)
        assert told in problem
        assert "[libvirt]" in problem or "write the password" in problem
        # a hook needs no libvirt
        node.start_guest(Guest("g", [Vf(node.vf(1), MAC, vlan=42)]))
        assert node.switch_ports()[node.representor(1)].tag == 42
        (line,) = said(node, "libvirt-unavailable")
        assert told in line
    finally:
        node.host.write(PASSWORD_FILE, right, 0o600)
    wait_for("the daemon to log in", lambda: problems(node) == [])


def test_the_command_logs_in_with_the_daemons_user(asking: Pair) -> None:
    node = asking.a
    node.define_guest(Guest("g", [Vf(node.vf(1), MAC, vlan=42)]))
    without = ("env", "-u", "LIBVIRT_AUTH_FILE")
    done = node.host.run(*without, "vfmigrate", "failover", "show", "g", check=False)
    assert (done.returncode, done.stderr) == (0, "")

    with node.host.path("/etc/passwd").open("a") as users:
        users.write("someone:x:1234:1234::/:/bin/sh\n")
    done = node.host.run(
        *without, "setpriv", "--reuid=1234", "--clear-groups", "vfmigrate", "failover", "show", "g",
        "-c", "qemu:///system", check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert (
        f"the password of libvirt user 'vdsm@ovirt' cannot be read: {PASSWORD_FILE}: Permission denied"
        in done.stderr
    )
