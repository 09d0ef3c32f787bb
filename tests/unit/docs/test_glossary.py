# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/glossary.md: each term has one line, in the order of the alphabet."""

from __future__ import annotations

import re

from tests.unit.docs.markdown import TREE

ROW = re.compile(r"^\| (?!term |---)(.+?) \| (.+) \|$", re.MULTILINE)
#: what an issue or a message may speak of without explaining it
EXPECTED = """announcement claim domain eswitch evacuate failover pair host facts hot-plug mark metadata migration job
pool port function preflight check provision reconcile replug representor reservation RPC slot strategy uplink"""


def test_each_term_has_one_line_in_order() -> None:
    rows = ROW.findall((TREE / "docs" / "glossary.md").read_text())
    terms = [term.lower() for term, _ in rows]
    assert len(terms) > 50
    assert terms == sorted(set(terms))
    assert all(meaning.strip() for _, meaning in rows)


def test_the_glossary_has_the_terms_of_the_field() -> None:
    terms = " | ".join(term for term, _ in ROW.findall((TREE / "docs" / "glossary.md").read_text()))
    assert [word for word in EXPECTED.split() if word not in terms] == []
