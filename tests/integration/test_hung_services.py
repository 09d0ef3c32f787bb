# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt beside a vfmigrated that is stopped, and vfmigrated beside a libvirtd that is stopped (SIGSTOP)."""

from __future__ import annotations

import time

import pytest

from tests.integration.hosts import wait_for
from tests.integration.hung_services import MOST_S, beside_stopped_daemon, guest, without_hook
from tests.integration.pair import Pair
from tests.integration.product import HOOK
from tests.patience import PATIENCE
from vfmigrate.errors import Unreachable

pytestmark = pytest.mark.hosts

#: the hook's patience in this test, in place of a minute
HOOK_S = 3.0


def test_a_guest_ends_beside_a_stopped_daemon(ready: Pair) -> None:
    a = ready.a
    plain = without_hook(a)
    assert beside_stopped_daemon(a) <= plain + MOST_S * PATIENCE
    wait_for("the daemon to remove the guest's port", lambda: a.switch_ports() == {})
    wait_for("the daemon to drop the guest's claim", lambda: a.product.claims() == {})


def test_a_guest_is_refused_in_time_beside_a_stopped_daemon(ready: Pair) -> None:
    host = ready.a.host
    hook = host.path(HOOK).read_text()
    assert hook.count("PATIENCE = 60\n") == 1
    host.write(HOOK, hook.replace("PATIENCE = 60\n", f"PATIENCE = {HOOK_S:g}\n"), 0o755)
    with ready.a.product.halted():
        begun = time.monotonic()
        refused = host.run("virsh", "create", "/dev/stdin", stdin=guest(ready.a).xml(), check=False)
        assert time.monotonic() - begun <= HOOK_S + 2 * MOST_S * PATIENCE
    assert refused.returncode != 0
    assert "vfmigrated does not answer" in refused.stderr
    wait_for("the daemon to drop the guest's claim", lambda: ready.a.product.claims() == {})


def test_the_daemon_answers_beside_a_stopped_libvirtd(ready: Pair) -> None:
    """A call of libvirt ends in its time, and what needs no libvirt is done."""
    a = ready.a
    vf = a.vf(2)
    with a.host.halted("/run/libvirtd.pid"):
        begun = time.monotonic()
        xml = guest(a).xml()
        a.host.run(HOOK, guest(a).name, "prepare", "begin", "-", stdin=xml)
        assert time.monotonic() - begun < 5 * PATIENCE
        assert a.product.claims()[vf]["state"] == "prepared"
        reconciled = a.host.run("vfmigrate", "reconcile", check=False)
        assert reconciled.returncode == Unreachable.exit_code
        assert "guests and networks were not looked at" in reconciled.stderr
        a.host.run("vfmigrate", "status")
        a.host.run(HOOK, guest(a).name, "release", "end", "failed", stdin=xml)
        assert time.monotonic() - begun < 45 * PATIENCE
        wait_for("the daemon to drop the guest's claim", lambda: a.product.claims() == {})
    wait_for("libvirtd to answer", lambda: a.host.virsh("list", "--name", check=False) == "")
    a.start_guest(guest(a))
    a.wait_until_settled(30 * PATIENCE)
