# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion as a user meets it: keys into an interactive bash, with real libvirt behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import ENVIRONMENT
from tests.integration.pair import Pair
from tests.integration.typing_shell import Shell, typing_shell

pytestmark = pytest.mark.hosts

FILE = "/usr/share/bash-completion/completions/vfmigrate"
MAC = "52:54:00:00:00:02"


@pytest.fixture
def shell(pair: Pair) -> Iterator[Shell]:
    """A shell on a host with two guests, of which one runs, and two pools."""
    host = pair.a.host
    host.write("/etc/vfmigrate/vfmigrate.conf", "[pool data]\npf = 0000:01:00.0\nbridge = br-data\n")
    host.write("/etc/vfmigrate/vfmigrate.conf.d/more.conf", "[daemon]\n\n[pool  dark-fibre ]\n")
    pair.a.start_guest(Guest("runner", number=1))
    pair.a.define_guest(Guest("resting", [Vf(pair.a.vf(1), MAC)], 2))
    command = host.namespace.command("bash", "--norc", "--noprofile", "-i")
    with typing_shell(command, ENVIRONMENT, FILE) as shell:
        yield shell
    host.path("/etc/vfmigrate/vfmigrate.conf.d/more.conf").unlink()


def test_verbs_and_options(shell: Shell) -> None:
    assert shell.completed("vfmigrate att") == "vfmigrate attach "
    assert shell.completed("vfmigrate failover en") == "vfmigrate failover enable "
    assert shell.completed("vfmigrate attach --stra") == "vfmigrate attach --strategy "
    assert shell.completed("vfmigrate attach --strategy f") == "vfmigrate attach --strategy failover "
    assert shell.completed("vfmigrate attach --strategy=re") == "vfmigrate attach --strategy=replug "
    assert {"attach", "detach", "status", "provision"} <= set(shell.possible("vfmigrate "))
    assert "--mac" not in shell.possible("vfmigrate status --")


def test_guests(shell: Shell) -> None:
    assert shell.possible("vfmigrate attach r") == ["resting", "runner"]
    assert shell.completed("vfmigrate attach ru") == "vfmigrate attach runner "
    assert shell.completed("vfmigrate attach --pool data re") == "vfmigrate attach --pool data resting "
    uri = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
    assert shell.completed(f"vfmigrate attach -c {uri} res") == f"vfmigrate attach -c {uri} resting "
    # the guest is named, and there is no other argument
    assert shell.completed("vfmigrate attach runner re") == "vfmigrate attach runner re"


def test_pools(shell: Shell) -> None:
    assert shell.possible("vfmigrate attach runner --pool da") == ["dark-fibre", "data"]
    assert shell.completed("vfmigrate provision dar") == "vfmigrate provision dark-fibre "
    assert shell.completed("vfmigrate provision data dar") == "vfmigrate provision data dark-fibre "


def test_macs_have_colons(shell: Shell) -> None:
    line = f"vfmigrate detach resting --mac {MAC}"
    assert shell.completed("vfmigrate detach resting --mac ") == f"{line} "
    assert shell.completed("vfmigrate detach resting --mac 52:54:0") == f"{line} "


def test_nothing_of_anything_unknown(shell: Shell) -> None:
    for line in ("vfmigrate attach nobody", "vfmigrate attach --vlan 4", "vfmigrate nonsense a"):
        assert shell.completed(line) == line
