# SPDX-License-Identifier: GPL-2.0-or-later
"""Output: nothing is printed, and no command is built, but through vfmigrate.text.

`hooks/qemu`, the vdsm plugin and `vfmigrate-guest` stand alone and have the escape themselves, the same one.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_text import HOSTILE
from vfmigrate.text import printable
from vfmigrate_guest import text as guest_text

# not where the modules are imported from, which can be a directory of packages
TOP = Path(__file__).resolve().parents[2]
LIBRARY = TOP / "lib/vfmigrate"
#: where print() is allowed, and the one place where XML, which is no text for people, is written
PRINTERS = {"text.py"}
#: a command, from its program on, to the end of the command
PROGRAMS = re.compile(
    r"(?:^|[\s`(:])(?:virsh|ovs-vsctl|ovs-ofctl|ovs-appctl|systemctl|ip (?:link|addr|route)|devlink (?:dev|port)"
    r"|mst\w+|mlxconfig|modprobe|journalctl|engine-config|firewall-cmd|nmcli|lspci|setpci|udevadm|rm|mv|chmod|chown"
    r"|vfmigrated? (?:status|provision|reconcile|attach|detach|check|migrate|evacuate|failover|ovirt|--\w)"
    r"|vfmigrate-guest \w)(?: [^;`]*)?$"
)
#: what introduces a command that is given as a whole
ASKED = re.compile(r"\b(?:run|see)\b(?: on [^:]*)?: $")


def modules(top: Path) -> Iterator[Path]:
    yield from sorted(top.rglob("*.py"))


def _texts(tree: ast.AST) -> set[str]:
    """The names of variables that are only given texts and f-strings, which are checked themselves."""
    given: dict[str, bool] = {}
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs += zip(target.elts, node.value.elts)
                else:
                    pairs.append((target, node.value))
        for target, value in pairs:
            if isinstance(target, ast.Name):
                is_text = isinstance(value, ast.JoinedStr) or (
                    isinstance(value, ast.Constant) and isinstance(value.value, str)
                )
                given[target.id] = given.get(target.id, True) and is_text
    return {name for name, is_text in given.items() if is_text}


def _is_quoted(value: ast.expr) -> bool:
    if isinstance(value, ast.Name):
        return value.id.lstrip("_").isupper()  # a constant of ours
    called = value.func if isinstance(value, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in ("quoted", "command")


def unquoted(source: str) -> list[str]:
    """The f-strings that build a command with a name that is not quoted."""
    tree = ast.parse(source)
    texts = _texts(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            whole = isinstance(part.value, ast.Name) and part.value.id in texts
            if not _is_quoted(part.value) and (
                PROGRAMS.search(before) or (ASKED.search(before) and not whole)
            ):
                found.append(f"{node.lineno}: {ast.unparse(part.value)}")
            before += "X"
    return found


def test_commands_are_built_of_quoted_names() -> None:
    files = [
        *modules(LIBRARY),
        *modules(TOP / "lib/vfmigrate_guest"),
        *modules(TOP / "vdsm_plugin"),
        TOP / "hooks/qemu",
    ]
    assert len(files) > 100
    found = {str(path.relative_to(TOP)): unquoted(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ('f"run: virsh start {name}"', True),
        ('f"run: virsh start {quoted(name)}"', False),
        ('f"run: virsh migrate --live {quoted(name)} {uri}"', True),
        ('f"ovs-vsctl del-port {bridge} {quoted(port)}"', True),
        ('f"see: {command}"', True),
        ('f"see: {command(*words)}"', False),
        ('how = f"ip link add {quoted(name)}"\nf"run on {host}: {how}"', False),
        ('how = other()\nf"run on {host}: {how}"', True),
        ('f"run: vfmigrate provision; pool {name} has none"', False),
        ('f"pool {name} was not defined by vfmigrate for {pool}"', False),
        ('f"run: modprobe {DRIVER}"', False),
        ("f\"run: vfmigrate provision {pool['name']}\"", True),
    ],
)
def test_the_rule_finds_what_it_is_for(source: str, refused: bool) -> None:
    assert bool(unquoted(source)) == refused


def prints(source: str) -> list[int]:
    """The lines that print, or write to a standard stream, themselves."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "print" or re.fullmatch(r"sys\.(stdout|stderr)(\.buffer)?\.write(lines)?", name):
                found.append(node.lineno)
    return found


def test_nothing_prints_by_itself() -> None:
    files = [*modules(LIBRARY), *modules(TOP / "lib/vfmigrate_guest")]
    found = {str(path.relative_to(TOP)): prints(path.read_text(encoding="utf-8")) for path in files}
    assert {path for path, lines in found.items() if lines} == {
        "lib/vfmigrate/text.py",
        "lib/vfmigrate_guest/text.py",
    }


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_what_stands_alone_escapes_in_the_same_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOP / "vdsm_plugin")
    handover = importlib.import_module("vfmigrate_vdsm.handover")
    assert guest_text.printable(name) == printable(name)
    assert handover.printable(name) == printable(" ".join(name.split()))
