# SPDX-License-Identifier: GPL-2.0-or-later
"""Text for people: what is escaped, and what a shell makes of quoted names."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate import text
from vfmigrate.cli import tables
from vfmigrate.errors import Refused
from vfmigrate.text import command, printable, quoted, say, say_json

#: names that do something to a terminal, to a reader or to a shell
HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "a control character of one byte": "a\x9b2Jb",
    "back": "good\r\bbad",
    "bidirectional": "a\u202egpj.exe",
    "isolate": "a\u2066b\u2069",
    "zero width": "vf\u200bmigrate",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "tag": "a\U000e0041",
    "surrogate": "a\udc80",
    "command": "$(reboot)",
    "backquote": "`reboot`",
    "quote": "a'; reboot; '",
    "blank": "a b",
    "option": "--help",
    "glob": "*",
}
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_what_is_printed_is_visible(name: str) -> None:
    told = printable(name)
    assert all(unicodedata.category(each)[0] not in "CZ" or each == " " for each in told)
    assert printable(told) == told


def test_visible_text_is_printed_as_it_is() -> None:
    name = "Gäst 客户机 ñ\u0301 €-1"
    assert printable(name) == name


@given(TEXT)
def test_a_shell_reads_a_quoted_name_as_one_word(name: str) -> None:
    line = command("printf", "%s", name)
    assert printable(line) == line
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.decode() == name
    if name.isprintable():
        assert shlex.split(line) == ["printf", "%s", name]  # any shell


@pytest.mark.parametrize(
    "word", ["guest1", "0000:41:00.2", "vfmigrate-data", "pci/0000:41:00.0", "/run/x", 7]
)
def test_a_usual_name_is_not_quoted(word: object) -> None:
    assert quoted(word) == str(word)


def test_errors_are_escaped() -> None:
    error = Refused("guest '\x1b[2Jg\n' is\u202e gone", f"run: virsh start {quoted('$(reboot)')}")
    assert str(error) == "guest '\\x1b[2Jg ' is\\u202e gone; run: virsh start '$(reboot)'"


def test_lines_are_escaped_and_json_is_exact() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        say("guest \x1b[2J\nnext")
        say_json({"name": "\x1b\u202e"})
    line, second, *rest = out.getvalue().split("\n")
    assert (line, second) == ("guest \\x1b[2J", "next")
    assert json.loads("\n".join(rest)) == {"name": "\x1b\u202e"}
    assert printable("".join(rest)) == "".join(rest)


@pytest.mark.parametrize("width", [None, 80])
def test_tables_are_escaped_before_they_are_laid_out(width: tables.Width) -> None:
    rows = [("VF", "GUEST"), ("0000:41:00.2", "\x1b[2J\u202eguest"), ("0000:41:00.3", "\n")]
    for line in tables.table(rows, width):
        assert printable(line) == line
    assert tables.wrapped("name \x1b[2J", width) == ["name \\x1b[2J"]


def test_complaints_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text.complain("vfmigrate", "a\nb\x1bc")
    assert capsys.readouterr().err == "vfmigrate: a b\\x1bc\n"
