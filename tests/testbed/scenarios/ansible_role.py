# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ansible role sets up a host without the packages; run again, it finds nothing to change."""

from __future__ import annotations

from tests.testbed import ansible, expect, packages, product, terminal
from tests.testbed.guest import POOL
from tests.testbed.host import PF
from tests.testbed.lab import Lab
from tests.testbed.namespace import RUN
from tests.testbed.provision import BRIDGE
from tests.testbed.report import Record

NAME = "ansible"
TIMEOUT_S = 400


def prepare() -> None:
    """Install Ansible while the network can be reached."""
    ansible.programs()


def run(lab: Lab, record: Record) -> None:
    """Remove the packages from host B and let the role install them."""
    home = RUN / "ansible"
    home.mkdir(exist_ok=True)
    variables = {
        "vfmigrate_package_files": product.files(),
        "vfmigrate_pools": [{"name": POOL, "pf": [PF], "bridge": BRIDGE, "vlans": ["42-43"]}],
        "vfmigrate_provision": False,
    }
    with terminal.step("the packages are removed from host B"):
        product.remove(lab.b)
    for attempt in ("first", "second"):
        with terminal.step(f"the role runs on host B, {attempt} time"):
            counts = ansible.apply(home, lab.b.hostname, RUN / "ssh.config", variables)
        record.measured[f"changed_{attempt}"] = counts["changed"]
    expect.that(
        record.measured["changed_first"] > 0, "the role changed nothing on a host without the packages"
    )
    expect.that(record.measured["changed_second"] == 0, "the role changed something when it ran again")
    installed = lab.b.run("rpm -qa --queryformat '%{NAME} '").split()
    expect.that(set(packages.FOR_A_HOST) <= set(installed), f"host B has only {', '.join(installed)}")
    for unit in ("vfmigrated.socket", "vfmigrated.service"):
        state = lab.b.run(f"systemctl is-enabled {unit}; systemctl is-active {unit}").split()
        expect.that(state == ["enabled", "active"], f"{unit} on host B is {' and '.join(state)}")
    pools = lab.b.run("vfmigrate status")
    expect.that(POOL in pools, f"the daemon of host B knows no pool {POOL}: {pools}")
    with terminal.step("host B is set up as before"):
        lab.b.write(product.CONFIG_PATH, product.CONFIG)
        lab.b.run("systemctl restart vfmigrated.service")
