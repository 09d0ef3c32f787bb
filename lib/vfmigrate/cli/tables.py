# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's answers as text for a terminal of 80 columns. Pure: values in, lines out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 80
_MARK = "! "
_COLUMNS = ("VF", "STATE", "DRIVER", "MIGR", "REPRESENTOR", "TAG", "GUEST")

Told = Mapping[str, Any]


def status(told: Told) -> Iterator[str]:
    """The lines of `vfmigrate status`."""
    if not told["pools"]:
        yield "no pools: see /etc/vfmigrate/vfmigrate.conf"
    for pool in told["pools"]:
        vfs = [vf for pf in pool["pfs"] for vf in pf["vfs"]]
        free = sum(vf["state"] == "free" for vf in vfs)
        network = f", network {pool['network']}" if pool["network"] else ""
        yield from wrapped(
            f"pool {pool['name']}: bridge {pool['bridge']}{network}, {free} of {len(vfs)} VFs free"
        )
        yield from _problems(pool["problems"], "  ")
        for pf in pool["pfs"]:
            yield from _pf(pf)


def provision(told: Told) -> Iterator[str]:
    """The lines of `vfmigrate provision`: what was changed, or would be, and what was found."""
    if not told["pools"]:
        yield "nothing to provision: it belongs to no pool of this host"
    for outcome in told["pools"]:
        name = outcome["pool"]
        for change in outcome["changes"]:
            yield from wrapped(f"{name}: {'would ' if told['dry_run'] else ''}{change}")
        for finding in outcome["findings"]:
            text = f"{finding['text']}; {finding['remedy']}" if finding["remedy"] else finding["text"]
            yield from wrapped(f"{name}: {finding['severity']}: {text}")
        if not outcome["changes"] and outcome["error"] is None:
            yield f"{name}: nothing to change"


def _pf(pf: Told) -> Iterator[str]:
    facts = [
        pf.get("mode") or "mode unknown",
        f"PSID {pf.get('psid') or '-'}",
        f"fw {pf.get('firmware') or '-'}",
        f"offload {pf['offload'] or 'unknown'}",
    ]
    if pf.get("migrating"):
        facts.append(f"{pf['migrating']} of at most {pf['max_migrating']} VFs on their way here")
    yield from wrapped(f"PF {pf['address']}: {', '.join(facts)}", "  ")
    yield from _problems(pf["problems"], "    ")
    if pf["vfs"]:
        rows = [_COLUMNS, *(_row(vf) for vf in pf["vfs"])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]
            yield _cut("    " + "  ".join([*cells, row[-1]]).rstrip())
    for vf in pf["vfs"]:
        yield from _problems([f"{vf['address']}: {problem}" for problem in vf["problems"]], "    ")


def _row(vf: Told) -> Sequence[str]:
    migratable = {True: "yes", False: "no", None: "-"}[vf["migratable"]]
    tag = str(vf["tag"]) if vf["tag"] is not None else "-"
    return (
        vf["address"],
        vf["state"],
        vf["driver"] or "-",
        migratable,
        vf["representor"] or "-",
        tag,
        vf["guest"] or vf["holder"] or "-",
    )


def _problems(problems: Sequence[str], indent: str) -> Iterator[str]:
    for problem in problems:
        yield from wrapped(_MARK + problem, indent)


def wrapped(text: str, indent: str = "", hanging: str = "") -> list[str]:
    """The lines of a text; those after the first begin with `hanging`, or with two more blanks than the first."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=hanging or f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
