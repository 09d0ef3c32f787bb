# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion as a user sees it: keys typed into an interactive bash, with real libvirt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import ENVIRONMENT
from tests.integration.pair import Pair
from tests.integration.typing_shell import Shell, typing_shell

INSTALLED = "/usr/share/bash-completion/completions"
TREE = Path(__file__).parents[2]
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
    with typing_shell(command, ENVIRONMENT, f"{INSTALLED}/vfmigrate") as shell:
        yield shell
    host.path("/etc/vfmigrate/vfmigrate.conf.d/more.conf").unlink()


@pytest.mark.hosts
def test_verbs_options_and_choices_are_completed(shell: Shell) -> None:
    assert shell.completed("vfmigrate att") == "vfmigrate attach "
    assert shell.completed("vfmigrate failover en") == "vfmigrate failover enable "
    assert shell.completed("vfmigrate attach --stra") == "vfmigrate attach --strategy "
    assert shell.completed("vfmigrate attach --strategy f") == "vfmigrate attach --strategy failover "
    assert shell.completed("vfmigrate attach --strategy=re") == "vfmigrate attach --strategy=replug "
    assert {"attach", "detach", "status", "provision"} <= set(shell.possible("vfmigrate "))
    assert "--mac" not in shell.possible("vfmigrate status --")


@pytest.mark.hosts
def test_names_of_guests_are_completed(shell: Shell) -> None:
    assert shell.possible("vfmigrate attach r") == ["resting", "runner"]
    assert shell.completed("vfmigrate attach ru") == "vfmigrate attach runner "
    assert shell.completed("vfmigrate attach --pool data re") == "vfmigrate attach --pool data resting "
    uri = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
    assert shell.completed(f"vfmigrate attach -c {uri} res") == f"vfmigrate attach -c {uri} resting "
    # The guest is named already, and there is no other argument.
    assert shell.completed("vfmigrate attach runner re") == "vfmigrate attach runner re"


@pytest.mark.hosts
def test_names_of_pools_are_completed(shell: Shell) -> None:
    assert shell.possible("vfmigrate attach runner --pool da") == ["dark-fibre", "data"]
    assert shell.completed("vfmigrate provision dar") == "vfmigrate provision dark-fibre "
    assert shell.completed("vfmigrate provision data dar") == "vfmigrate provision data dark-fibre "


@pytest.mark.hosts
def test_macs_are_completed_across_colons(shell: Shell) -> None:
    line = f"vfmigrate detach resting --mac {MAC}"
    assert shell.completed("vfmigrate detach resting --mac ") == f"{line} "
    assert shell.completed("vfmigrate detach resting --mac 52:54:0") == f"{line} "


@pytest.mark.hosts
def test_unknown_words_have_no_completion(shell: Shell) -> None:
    for line in ("vfmigrate attach nobody", "vfmigrate attach --vlan 4", "vfmigrate nonsense a"):
        assert shell.completed(line) == line


@pytest.mark.hosts
def test_options_and_files_of_the_daemon_are_completed(pair: Pair) -> None:
    command = pair.a.host.namespace.command("bash", "--norc", "--noprofile", "-i")
    with typing_shell(command, ENVIRONMENT, f"{INSTALLED}/vfmigrated") as shell:
        assert shell.completed("vfmigrated --chec") == "vfmigrated --check "
        line = "vfmigrated --check --config /etc/vfmigrate/vfmigrate.conf"
        assert shell.completed(line[:-5]).startswith(line)
        assert shell.completed("vfmigrated --claims=/etc/vfmi").startswith(
            "vfmigrated --claims=/etc/vfmigrate"
        )


def test_verbs_and_devices_of_the_guest_command_are_completed(tmp_path: Path) -> None:
    devices = Path("/sys/class/net")
    hardware = sorted(device.name for device in devices.iterdir() if (device / "device").exists())
    command = ("bash", "--norc", "--noprofile", "-i")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    with typing_shell(command, environment, str(TREE / "completion/vfmigrate-guest")) as shell:
        assert shell.possible("vfmigrate-guest ") == ["bond", "remove", "show"]
        line = "vfmigrate-guest bond --fail-over-mac fol"
        assert shell.completed(line) == f"{line}low "
        assert shell.completed("vfmigrate-guest bond --dry") == "vfmigrate-guest bond --dry-run "
        assert "--vf" not in shell.possible("vfmigrate-guest remove --")
        if len(hardware) > 1:
            assert shell.possible("vfmigrate-guest bond --vf ") == hardware
        elif hardware:
            line = f"vfmigrate-guest bond --vf {hardware[0]}"
            assert shell.completed("vfmigrate-guest bond --vf ") == f"{line} "
