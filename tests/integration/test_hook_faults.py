# SPDX-License-Identifier: GPL-2.0-or-later
"""Hook scripts of vfmigrate and others that crash at each stage, and an earlier hook that rewrites the XML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.hook_calls import AFTER, BEFORE
from tests.integration.hosts import Host
from tests.integration.journey import MAC, NAME, VLAN, Journey
from tests.integration.pair import Pair, start_products
from tests.integration.product import HOOK
from vfmigrate.domain.metadata import URI

pytestmark = pytest.mark.hosts

OURS = HOOK.rpartition("/")[2]
# One stage is tested for every change, the others by make soak.
LONG: tuple[tuple[pytest.MarkDecorator, ...], ...] = ((), (pytest.mark.long,))
STAGES = ("migrate", "prepare", "start", "started")
MOVED = "/usr/local/lib/vfmigrate-hook"
# Does all that vfmigrate's hook does, and is killed before it can answer.
CRASHING = """\
#!/bin/sh
{moved} "$@"
status=$?
[ "$2" != {stage} ] || kill -KILL $$
exit $status
"""
# What vdsm's own hook does to the XML: it parses it and writes it with other prefixes.
REWRITING = """\
#!/usr/bin/python3 -IS
import sys
from xml.etree import ElementTree
if sys.argv[2] == "migrate":
    ElementTree.ElementTree(ElementTree.fromstring(sys.stdin.read())).write(sys.stdout, encoding="unicode")
"""


@contextmanager
def script(host: Host, path: str, text: str) -> Iterator[None]:
    """A script on a host during this context."""
    host.write(path, text, 0o755)
    try:
        yield
    finally:
        host.path(path).unlink()


@pytest.mark.parametrize("stage", [pytest.param(stage, marks=LONG[stage != "start"]) for stage in STAGES])
def test_a_crashed_hook_script_fails_the_migration_and_the_guest_stays(pair: Pair, stage: str) -> None:
    start_products(pair, claim_timeout=5)
    journey = Journey(pair)
    with script(pair.b.host, MOVED, pair.b.host.path(HOOK).read_text()):
        for name in (BEFORE, OURS, AFTER):
            if name == OURS:
                pair.b.host.write(HOOK, CRASHING.format(moved=MOVED, stage=stage), 0o755)
            else:
                pair.b.hooks.crash(stage, name)
            outcome = pair.a.migrate(NAME, pair.b)
            assert outcome.status != 0, name
            assert name in outcome.error, name
            assert "signal 9" in outcome.error
            pair.b.hooks.clear()
            pair.b.product.install_hook()
            journey.stays()
    journey.travel()


def test_metadata_is_found_when_an_earlier_hook_renamed_its_prefix(ready: Pair) -> None:
    """As vdsm's hook does, which runs before vfmigrate's and writes other prefixes."""
    journey = Journey(ready)
    with script(ready.b.host, "/etc/libvirt/hooks/qemu", REWRITING):
        journey.travel()
    (call,) = [call for call in ready.b.hooks.calls(BEFORE) if call.operation == "migrate"]
    assert f'="{URI}"' in call.xml
    assert "<vfmigrate:" not in call.xml
    (port,) = ready.b.switch_ports().values()
    assert (port.tag, port.ids["attached-mac"]) == (VLAN, MAC)
