# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ansible role: ansible-lint, and the configuration that it writes. The test bed runs it on a host."""

from __future__ import annotations

import json
from pathlib import Path

from tests.testbed import ansible
from tests.testbed.run import run
from vfmigrate.config import configuration


def test_ansible_lint_passes(tmp_path: Path) -> None:
    ansible.lint(tmp_path)


def test_the_written_configuration_says_what_the_variables_say(tmp_path: Path) -> None:
    variables = {
        "vfmigrate_daemon": {"readers": ["nagios", "vdsm"], "claim_timeout": 60},
        "vfmigrate_pools": [
            {"name": "data", "pf": ["0000:e1:00.0", "0000:e1:00.1"], "bridge": "br-data", "vlan": 42},
            {
                "name": "lab",
                "pf": ["0000:c1:00.0"],
                "bridge": "br-lab",
                "vlans": ["43", "100-102"],
                "announce": False,
            },
        ],
    }
    target = tmp_path / "vfmigrate.conf"
    template = {
        "ansible.builtin.template": {
            "src": str(ansible.DOCS / "roles/vfmigrate/templates/vfmigrate.conf.j2"),
            "dest": str(target),
        }
    }
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": variables,
            "tasks": [template],
        }
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    programs, surroundings = ansible.environment(tmp_path)
    told = run(programs / "ansible-playbook", tmp_path / "play.yml", env=surroundings)
    assert ansible.recap(told, "localhost")["changed"] == 1
    loaded = configuration.load(target)
    assert loaded.readers == {"nagios", "vdsm"}
    assert loaded.claim_timeout == 60
    data, lab = loaded.pools["data"], loaded.pools["lab"]
    assert ([str(pf) for pf in data.pfs], data.bridge, data.vlan) == (
        ["0000:e1:00.0", "0000:e1:00.1"],
        "br-data",
        42,
    )
    assert not lab.announce
    assert lab.vlans == {43, 100, 101, 102}
