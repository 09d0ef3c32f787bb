# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed systemd units and udev rules, checked by systemd's own tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import namespaces, product
from tests.integration.namespaces import Namespace
from tests.testbed import images, root
from tests.testbed.run import run

UNITS = (
    "vfmigrated.socket",
    "vfmigrated.service",
    "vfmigrate-pci.socket",
    "vfmigrate-pci.service",
    "vfmigrate-early.service",
    "vfmigrate-provision.service",
    "vfmigrate-provision@.service",
)
PLACE = "/usr/lib/systemd/system"
# Exposure as systemd-analyze computes it, from 0 to 10.
LIMIT = 2.0


@contextmanager
def installed(lower: Path, make: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A host over a root, with vfmigrate installed but not running."""
    staged = make.mktemp("staged")
    product.stage(staged)
    with namespaces.host("machine", lower, make.mktemp("machine")) as machine:
        run("cp", "-a", f"{staged}/.", f"/proc/{machine.pid}/root")
        yield machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A host with vfmigrate installed but not running."""
    with installed(images.host_root(), tmp_path_factory) as machine:
        yield machine


@pytest.fixture(scope="module")
def el_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """The same with NetworkManager, as Enterprise Linux has it."""
    with installed(root.el_host_root(), tmp_path_factory) as machine:
        yield machine


def test_systemd_accepts_the_units(machine: Namespace) -> None:
    done = machine.run("systemd-analyze", "verify", "--man=no", *(f"{PLACE}/{unit}" for unit in UNITS))
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "vfmigrate" in line]
    assert ours == []


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
def test_systemd_rates_the_exposure_of_the_services_as_low(machine: Namespace, unit: str) -> None:
    told = machine.run("systemd-analyze", "security", "--offline=yes", "--no-pager", f"{PLACE}/{unit}").stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found is not None
    assert float(found[1]) <= LIMIT


def test_udev_accepts_the_rules(machine: Namespace) -> None:
    done = machine.run("udevadm", "verify", "/usr/lib/udev/rules.d/70-vfmigrate.rules")
    assert "Fail:    0" in done.stdout


def test_libvirt_autostarts_guests_after_provisioning(machine: Namespace) -> None:
    for unit in (unit for unit in UNITS if unit.endswith(".service")):
        told = machine.run("cat", f"{PLACE}/{unit}").stdout
        lines = [line for line in told.splitlines() if line.startswith("Before=")]
        before = {unit for line in lines for unit in line[len("Before=") :].split()}
        assert {"libvirtd.service", "virtqemud.service"} <= before


def test_the_mode_of_cards_is_changed_before_the_network_is_configured(el_machine: Namespace) -> None:
    unit = "vfmigrate-early.service"
    others = ("NetworkManager.service", "NetworkManager-wait-online.service", "openvswitch-switch.service")
    el_machine.run("systemctl", "enable", unit, "vfmigrated.service", "vfmigrate-provision.service", *others)
    order = el_machine.run("systemd-analyze", "verify", "--man=no", "multi-user.target", check=False)
    said = order.stdout + order.stderr
    assert "cycle" not in said
    assert [line for line in said.splitlines() if "vfmigrate" in line] == []
    told = el_machine.run("cat", f"{PLACE}/{unit}").stdout
    assert "NetworkManager.service" in told
    # Open vSwitch and libvirt come later: it neither waits for them nor starts them
    wanted = [line for line in told.splitlines() if line.startswith(("After=", "Wants=", "Requires="))]
    assert not [line for line in wanted if "openvswitch" in line or "libvirt" in line or "vfmigrated" in line]


def test_the_units_have_no_ordering_cycle(machine: Namespace) -> None:
    enabled = ("vfmigrated.service", "vfmigrate-early.service", "vfmigrate-provision.service")
    machine.run("systemctl", "enable", *enabled, "libvirtd.service", "openvswitch-switch.service")
    done = machine.run("systemd-analyze", "verify", "--man=no", "multi-user.target", check=False)
    told = done.stdout + done.stderr
    assert "cycle" not in told
    assert [line for line in told.splitlines() if "vfmigrate" in line] == []
