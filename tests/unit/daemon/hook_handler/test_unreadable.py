# SPDX-License-Identifier: GPL-2.0-or-later
"""XML that cannot be read: it stops a start and a migration, and never the clean-up after a guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import Rig
from vfmigrate.errors import InputError

UNREADABLE: dict[str, Callable[[str], str]] = {
    "a document type": lambda xml: f"<!DOCTYPE domain>{xml}",
    "malformed": lambda xml: xml[:-20],
    "a MAC": lambda xml: xml.replace("mac address='52:54", "mac address='zz:54"),
    "a uuid": lambda xml: xml.replace("<uuid>", "<uuid>x"),
    "a PCI address": lambda xml: xml.replace("bus='0x", "bus='zwei"),
    "metadata": lambda xml: xml.replace("vlan='42'", "vlan='viele'"),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_guest_that_ends_is_cleaned_up_after(rig: Rig, fault: str) -> None:
    xml = guest(1, rig.memory.vfs[0])
    other = guest(2, rig.memory.vfs[1])
    rig.run(xml)
    rig.run(other)
    unreadable = UNREADABLE[fault](xml)

    for operation in ("stopped", "release"):
        assert rig.call(operation, unreadable, name="guest1") is None

    assert [claim.domain_name for claim in rig.store.all()] == ["guest2"]


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_guest_that_starts_is_refused(rig: Rig, fault: str) -> None:
    with pytest.raises(InputError):
        rig.call("migrate", UNREADABLE[fault](guest(1, ELSEWHERE)), name="guest1")


@pytest.mark.parametrize("operation", ["started", "stopped", "release", "reconnect"])
def test_a_guest_that_nobody_knows_is_left_alone(rig: Rig, operation: str) -> None:
    rig.run(guest(2, rig.memory.vfs[1]))
    assert rig.call(operation, "<domain", name="guest1") is None
    assert [claim.domain_name for claim in rig.store.all()] == ["guest2"]


def test_a_document_type_in_a_comment_refuses_nothing(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0]).replace(
        "<metadata>", "<metadata><app:a xmlns:app='u'><![CDATA[<!DOCTYPE]]></app:a>"
    )
    rig.run(xml)
    rig.leave(xml)
    assert rig.store.all() == []
