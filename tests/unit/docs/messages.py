# SPDX-License-Identifier: GPL-2.0-or-later
"""The refusals that the code can make, found in its syntax trees: the key sentence of each, and where it is.

A key sentence is a message with `…` for each part that is known only when it is made. A message that is put together
from a variable is followed to what the function assigns to that variable.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.unit.docs.markdown import TREE

OPEN = "…"
#: calls whose first argument is a refusal's sentence, by the folder or file in which they count
REFUSALS = (
    ("lib/vfmigrate", "Refused"),
    ("lib/vfmigrate", "TooManyMigrating"),
    ("lib/vfmigrate", "Denied"),
    ("lib/vfmigrate/preflight", "error"),
    ("hooks/qemu", "refuse"),
    ("vdsm_plugin", "PluginError"),
)
#: files whose messages are problem and remedy in one text; the key is the problem
ONE_TEXT = ("hooks/qemu",)
#: calls whose sentence comes after a severity
FINDINGS = ("lib/vfmigrate", "Finding")
#: severities that block what was asked for
BLOCKING = frozenset({"ERROR", "'error'"})

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Message:
    """One refusal: its key sentence, and the place of the call."""

    key: str
    place: str


def messages() -> list[Message]:
    """All refusals of the code."""
    found = []
    for file in sources():
        name = str(file.relative_to(TREE))
        tree = ast.parse(file.read_text())
        for call, function in calls(tree):
            sentence = _sentence(name, call)
            if sentence is None:
                continue
            for key in sorted(keys(sentence, function)):
                problem = key.partition("; ")[0] if name.startswith(ONE_TEXT) else key
                if is_telling(problem):
                    found.append(Message(problem, f"{name}:{call.lineno}"))
    return found


def sources() -> Iterator[Path]:
    """The files whose messages count."""
    yield from sorted((TREE / "lib" / "vfmigrate").rglob("*.py"))
    yield from sorted((TREE / "vdsm_plugin").rglob("*.py"))
    yield TREE / "hooks" / "qemu"


def calls(tree: ast.AST, function: Optional[ast.AST] = None) -> Iterator[tuple[ast.Call, Optional[ast.AST]]]:
    """Each call, with the function that it is in."""
    for node in ast.iter_child_nodes(tree):
        inside = node if isinstance(node, _FUNCTIONS) else function
        if isinstance(node, ast.Call):
            yield node, inside
        yield from calls(node, inside)


def _sentence(file: str, call: ast.Call) -> Optional[ast.expr]:
    """The argument that is a refusal's sentence; None when the call makes no refusal."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if isinstance(call.func, ast.Attribute):
        name = call.func.attr
    if any(file.startswith(place) and name == wanted for place, wanted in REFUSALS) and call.args:
        return call.args[0]
    place, finding = FINDINGS
    if file.startswith(place) and name == finding and len(call.args) > 1:
        return call.args[1] if ast.unparse(call.args[0]) in BLOCKING else None
    return None


def keys(sentence: ast.expr, function: Optional[ast.AST], depth: int = 0) -> set[str]:
    """The sentences that an expression can become."""
    if isinstance(sentence, ast.Constant) and isinstance(sentence.value, str):
        return {tidy(sentence.value)}
    if isinstance(sentence, ast.JoinedStr):
        return {tidy("".join(_part(each) for each in sentence.values))}
    if isinstance(sentence, ast.BinOp) and isinstance(sentence.op, ast.Add):
        left, right = keys(sentence.left, function, depth), keys(sentence.right, function, depth)
        return {tidy(f"{one} {other}") for one in left for other in right}
    if isinstance(sentence, ast.IfExp):
        return keys(sentence.body, function, depth) | keys(sentence.orelse, function, depth)
    if isinstance(sentence, ast.Name) and function is not None and depth < 3:
        return {
            key for value in _assigned(sentence.id, function) for key in keys(value, function, depth + 1)
        } or {OPEN}
    return {OPEN}


def _part(value: ast.expr) -> str:
    """A part of an f-string: its text, or what stands for it."""
    if isinstance(value, ast.FormattedValue):
        if isinstance(value.value, ast.Constant):
            return str(value.value.value)
        return OPEN
    return str(value.value) if isinstance(value, ast.Constant) else OPEN


def _assigned(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """What a function assigns to a variable."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name) and target.id == name:
                yield value
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for each, part in zip(target.elts, value.elts):
                    if isinstance(each, ast.Name) and each.id == name:
                        yield part


def tidy(text: str) -> str:
    """A sentence on one line, with one sign for neighbouring open parts."""
    return re.sub(rf"{OPEN}(?:\s*{OPEN})+", OPEN, " ".join(text.split()))


def is_telling(key: str) -> bool:
    """Whether a key has words of its own: a message that is passed on has none."""
    return len(re.findall(r"\w{2,}", key.replace(OPEN, " "))) >= 2
