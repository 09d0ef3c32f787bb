# SPDX-License-Identifier: GPL-2.0-or-later
"""What names a migration in a domain's metadata: written, read, and ignored where anybody has written nonsense."""

from __future__ import annotations

import pytest

from vfmigrate.domain import trace_mark
from vfmigrate.domain.trace_mark import PREFIX, URI, TraceMark

ID = "91c3b0a7d2e84f16"


def as_libvirt_keeps_it(element: str) -> str:
    """A domain with an element as virDomainSetMetadata keeps it."""
    element = element.replace("<migration", f"<{PREFIX}:migration xmlns:{PREFIX}='{URI}'", 1)
    return f"<domain><name>g</name><metadata>{element}</metadata></domain>"


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = TraceMark(ID, "host-a.example.org")
    assert trace_mark.of_domain(as_libvirt_keeps_it(mark.write())) == mark


def test_new_marks_have_ids_of_their_own() -> None:
    one, other = trace_mark.new("host-a"), trace_mark.new("host-a")
    assert one.id != other.id
    assert trace_mark.is_id(one.id)
    assert one.host == "host-a"


@pytest.mark.parametrize("host", ["a b", "x" * 65, "<"])
def test_a_host_name_that_is_not_one_is_left_out(host: str) -> None:
    assert trace_mark.new(host).host is None
    written = TraceMark(ID).write().replace("/>", f" host='{host.replace('<', '&lt;')}'/>")
    assert trace_mark.of_domain(as_libvirt_keeps_it(written)) == TraceMark(ID)


@pytest.mark.parametrize("value", ["", "91c3", ID.upper(), "\u0661" * 16, f"{ID}0", f"{ID} "])
def test_what_is_not_an_id_is_ignored(value: str) -> None:
    assert trace_mark.of_domain(as_libvirt_keeps_it(f"<migration id='{value}'/>")) is None


def test_a_domain_without_a_mark_has_none() -> None:
    assert trace_mark.of_domain("<domain><name>g</name></domain>") is None
