# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ansible role in docs/ansible: linted, and run on test hosts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.testbed.run import run

CLONE = Path(__file__).resolve().parents[2]
DOCS = CLONE / "docs" / "ansible"


def programs() -> Path:
    """Where Ansible's programs are; they are fetched first when missing."""
    return Path(run(CLONE / "tests/venv.sh", "ansible.txt").strip()) / "bin"


def environment(home: Path) -> tuple[Path, dict[str, str]]:
    """Where Ansible's programs are, and what they need in the environment. Ansible keeps its files below `home`."""
    folder = programs()
    return folder, {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(home),
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_ROLES_PATH": str(DOCS / "roles"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "LC_ALL": "C.UTF-8",
    }


def lint(home: Path) -> str:
    """What ansible-lint says with its strictest profile; raises CommandError when it finds fault."""
    folder, surroundings = environment(home)
    surroundings["XDG_CACHE_HOME"] = str(home)
    words = ("--offline", "--strict", "--profile", "production", "--nocolor", "--project-dir", DOCS)
    return run(folder / "ansible-lint", *words, cwd=DOCS, env=surroundings)


def apply(home: Path, host: str, ssh_config: Path, variables: Mapping[str, Any]) -> dict[str, int]:
    """Run the role on a host that ssh reaches by its configuration; returns Ansible's counts (`changed`, ...)."""
    folder, surroundings = environment(home)
    play = [
        {"hosts": "all", "gather_facts": False, "roles": [{"role": "vfmigrate", "vars": dict(variables)}]}
    ]
    playbook = home / "play.yml"
    playbook.write_text(json.dumps(play))
    surroundings["ANSIBLE_SSH_ARGS"] = f"-F {ssh_config}"
    surroundings["ANSIBLE_PIPELINING"] = "True"
    words = ("-i", f"{host},", "-e", "ansible_python_interpreter=/usr/bin/python3", playbook)
    return recap(run(folder / "ansible-playbook", *words, env=surroundings), host)


def recap(told: str, host: str) -> dict[str, int]:
    """Ansible's counts of a host, from the end of what it prints."""
    found = re.search(rf"^{re.escape(host)}\s*:((?: +[a-z]+=[0-9]+)+)", told, re.MULTILINE)
    if not found:
        raise ValueError(f"Ansible prints no counts for {host}: {told[-300:]}")
    return {name: int(count) for name, _, count in (word.partition("=") for word in found.group(1).split())}
