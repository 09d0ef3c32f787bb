# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects are complete when they are constructed: nobody sets their attributes or callbacks afterwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("lib", "hooks", "vdsm_plugin")

#: Modules that set attributes of another library's objects: its interface. Only those attributes.
FOREIGN = {
    "lib/vfmigrate/cli/examples.py": {"formatter_class", "epilog"},  # argparse
    "lib/vfmigrate/domain/markup.py": {"StartElementHandler", "EndElementHandler"},  # expat
    "lib/vfmigrate/domain/migrating_guest.py": {"text"},  # lxml
    "lib/vfmigrate/domain/network_xml.py": {"text"},  # lxml
    # oVirt's SDK
    "lib/vfmigrate/ovirt/engine.py": {
        "pass_through",
        "migratable",
        "failover",
        "network_filter",
        "custom_properties",
    },
}


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement assigns to."""
    found: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        found = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        found = [node.target]
    for each in found:
        yield from each.elts if isinstance(each, (ast.Tuple, ast.List)) else [each]


def is_own(target: ast.Attribute) -> bool:
    """Whether the attribute is one of `self` or `cls`."""
    return isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")


def declared(tree: ast.Module) -> set[str]:
    """The attributes that the classes of a module declare, or set on themselves."""
    names = set()
    for node in (
        node for each in ast.walk(tree) if isinstance(each, ast.ClassDef) for node in ast.walk(each)
    ):
        for target in targets(node):
            if isinstance(target, ast.Name) and isinstance(node, ast.AnnAssign):
                names.add(target.id)
            elif isinstance(target, ast.Attribute) and is_own(target):
                names.add(target.attr)
    return names


def set_from_outside(tree: ast.Module) -> list[tuple[int, str]]:
    """Lines that set an attribute of an object whose class is in another module, and the attribute."""
    known = declared(tree)
    return [
        (target.lineno, target.attr)
        for node in ast.walk(tree)
        for target in targets(node)
        if isinstance(target, ast.Attribute) and not is_own(target) and target.attr not in known
    ]


def callbacks_set_later(tree: ast.Module) -> list[int]:
    """Lines of methods other than constructors that keep a function which was passed to them."""
    found = []
    methods = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "__init__"
    ]
    for method in methods:
        functions = {
            each.arg
            for each in (*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs)
            if each.annotation is not None and "Callable" in ast.unparse(each.annotation)
        }
        for node in ast.walk(method):
            if (
                isinstance(node, ast.Assign)
                and {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)} & functions
            ):
                found += [each.lineno for each in targets(node) if isinstance(each, ast.Attribute)]
    return found


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module, by its path."""
    for directory in SOURCES:
        for path in sorted((ROOT / directory).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def test_no_attribute_of_an_object_is_set_by_another_module() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, tree in modules()
        for line, name in set_from_outside(tree)
        if name not in FOREIGN.get(path, ())
    ]
    assert found == [], "give it to the constructor"


def test_no_method_but_the_constructor_keeps_a_callback() -> None:
    found = [f"{path}:{line}" for path, tree in modules() for line in callbacks_set_later(tree)]
    assert found == [], "give it to the constructor"


def test_each_exception_is_needed() -> None:
    for path, tree in modules():
        assert FOREIGN.get(path, set()) <= {name for _, name in set_from_outside(tree)}, path


def test_planted_assignments_are_found() -> None:
    assert set_from_outside(ast.parse("reconciler = Reconciler()\nreconciler.ask = query.ask")) == [
        (2, "ask")
    ]
    assert set_from_outside(ast.parse("self.a.b, c = 1, 2")) == [(1, "b")]
    own = "class Look:\n    due: float\n\nlook = Look()\nlook.due = 1.0"
    assert set_from_outside(ast.parse(own)) == []
    setter = "class A:\n    def read_by(self, read: Callable[[], int]) -> None:\n        self._read = read"
    assert callbacks_set_later(ast.parse(setter)) == [3]
    assert callbacks_set_later(ast.parse(setter.replace("read_by", "__init__"))) == []
