# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon notices that its configuration changed, and takes over a valid one only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.config import configuration
from vfmigrate.daemon.config_reload import CHANGED, ConfigReload, fingerprint
from vfmigrate.errors import HostError, Refused
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress

POOL = "[pool data]\npf = 0000:e1:00.0\nbridge = br-data\n"


class Rig:
    """A daemon's configuration in a directory."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = directory / "vfmigrate.conf"
        self.file.write_text(POOL)
        self.config = configuration.load(self.file)
        self.log = Journal(directory / "no-journal")  # so it writes to standard error
        self.reconciled = 0
        self.reloading = ConfigReload(self.file, self.config, fingerprint(self.file), self.log)
        self._capsys = capsys

    def reload(self) -> list[str]:
        """Reload; returns what was logged meanwhile."""
        self.reloading.reload(self._reconcile)
        return self._capsys.readouterr().err.splitlines()

    def _reconcile(self) -> None:
        self.reconciled += 1


@pytest.fixture
def rig(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Rig]:
    rig = Rig(tmp_path, capsys)
    yield rig
    rig.log.close()


def test_a_changed_file_is_a_problem_until_it_is_taken_over(rig: Rig) -> None:
    assert rig.reloading.problem() is None
    rig.file.write_text(POOL + "vlans = 42-43\n")
    assert rig.reloading.problem() == CHANGED
    assert rig.reload() == ["<6>reloaded: took over the configuration; pools: data"]
    assert rig.reloading.problem() is None
    assert rig.config.pools["data"].allows_vlan(43)
    assert rig.reconciled == 1


def test_a_file_that_appears_in_the_directory_beside_is_noticed(rig: Rig) -> None:
    beside = rig.file.with_name("vfmigrate.conf.d")
    beside.mkdir()
    (beside / "more.conf").write_text("[pool more]\npf = 0000:e1:00.1\nbridge = br-more\n")
    assert rig.reloading.problem() == CHANGED
    rig.reload()
    assert rig.config.pool_of(PciAddress.parse("0000:e1:00.1")) is not None


def test_a_configuration_with_an_error_changes_nothing(rig: Rig) -> None:
    rig.file.write_text(POOL + "vlan = many\n")
    (line,) = rig.reload()
    assert line.startswith(
        f"<4>reload-refused: the configuration stays as it was: {rig.file}: [pool data] vlan:"
    )
    assert rig.config.pools["data"].bridge == "br-data"
    assert (rig.reloading.problem(), rig.reconciled) == (CHANGED, 0)


def test_a_change_that_needs_a_restart_is_named(rig: Rig) -> None:
    rig.file.write_text(
        "[daemon]\novsdb = unix:/x\nclaim_timeout = 99\n[libvirt]\nuri = test:///default\n" + POOL
    )
    _, line = rig.reload()
    assert line == (
        "<4>reload-incomplete: a change of [libvirt] and ovsdb takes effect at the next start: "
        "systemctl restart vfmigrated"
    )
    assert (rig.config.claim_timeout, rig.config.ovsdb) == (99, "unix:/run/openvswitch/db.sock")


def test_a_refusal_says_that_the_configuration_changed(rig: Rig) -> None:
    refusal = Refused("this host has no pool 'left'", "add it")
    assert rig.reloading.explained(refusal) is refusal
    rig.file.write_text(POOL.replace("data", "left"))
    assert str(rig.reloading.explained(refusal)) == f"this host has no pool 'left'; add it; {CHANGED}"
    fault = HostError("the card does not answer")
    assert rig.reloading.explained(fault) is fault
