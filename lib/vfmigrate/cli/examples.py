# SPDX-License-Identifier: GPL-2.0-or-later
"""Examples of each verb, shown by --help and in the manual page. A test checks that each verb has some that parse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "status": (
        "vfmigrate status",
        "vfmigrate status --guest guest1 --wide",
        "vfmigrate status --fail-on-problems",
        "vfmigrate status --json | jq '.pools[].problems'",
    ),
    "list": ("vfmigrate list", "vfmigrate list --all --json | jq '.guests[].name'"),
    "provision": ("vfmigrate provision --dry-run", "vfmigrate provision data"),
    "reconcile": ("vfmigrate reconcile",),
    "attach": (
        "vfmigrate attach guest1 --pool data --vlan 42 --dry-run",
        "vfmigrate attach guest1 --pool data --vlan 42",
        "vfmigrate attach guest2 --pool data --strategy failover --config",
    ),
    "detach": ("vfmigrate detach guest1", "vfmigrate detach guest2 --mac 52:54:00:01:02:03"),
    "check": (
        "vfmigrate check guest1 qemu+ssh://host-b/system",
        "vfmigrate check guest1 qemu+ssh://host-b/system --verbose",
        "vfmigrate check guest1 qemu+ssh://host-b/system --json | jq '.checks[].text'",
    ),
    "where": (
        "vfmigrate where guest1 qemu+ssh://host-b/system qemu+ssh://host-c/system",
        "vfmigrate where guest1 qemu+ssh://host-b/system --json | jq '.hosts[].can_take'",
    ),
    "migrate": (
        "vfmigrate migrate guest1 qemu+ssh://host-b/system --persistent --undefinesource",
        "vfmigrate migrate guest1 qemu+ssh://host-b/system --bandwidth 500 --max-downtime 3000",
    ),
    "evacuate": (
        "vfmigrate evacuate --dry-run qemu+ssh://host-b/system qemu+ssh://host-c/system",
        "vfmigrate evacuate qemu+ssh://host-b/system --jobs 2 --only guest1 --only guest2",
    ),
    "failover enable": (
        "vfmigrate failover enable guest1 --standby-bridge br-data --vlan 42 --dry-run",
        "vfmigrate failover enable guest1 --standby-network default --mac 52:54:00:01:02:03",
    ),
    "failover disable": ("vfmigrate failover disable guest1",),
    "failover show": ("vfmigrate failover show guest1",),
    "trace": (
        "vfmigrate trace guest1",
        "vfmigrate trace guest1 qemu+ssh://host-b/system",
        "vfmigrate trace 91c3b0a7d2e84f16 qemu+ssh://host-b/system --json",
    ),
    "ovirt profile show": (
        "vfmigrate ovirt profile show --url https://engine/ovirt-engine/api --user admin@internal",
    ),
    "ovirt profile set": (
        "vfmigrate ovirt profile set fast --pool data --url https://engine/ovirt-engine/api --user admin@internal",
    ),
}

_TITLE = "examples:"


class _Formatter(argparse.HelpFormatter):
    """Does not wrap the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_TITLE):
            return text
        return super()._fill_text(text, width, indent)


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the verbs without sub-verbs."""
    below = [
        verb
        for action in parser._actions  # noqa: SLF001 - argparse has no other list of them
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for verb in action.choices.values()
    ]
    if not below:
        yield parser
    for verb in below:
        yield from verbs(verb)


def name(verb: argparse.ArgumentParser) -> str:
    """A verb's name, without the program's name."""
    return verb.prog.partition(" ")[2]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the examples to the verbs of a parser."""
    for verb in verbs(parser):
        if name(verb) in EXAMPLES:
            verb.formatter_class = _Formatter
            verb.epilog = "\n  ".join([_TITLE, *EXAMPLES[name(verb)]])
