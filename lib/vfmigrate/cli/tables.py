# SPDX-License-Identifier: GPL-2.0-or-later
"""All that the command prints as tables and lists, for a terminal or a pipe. Pure but for `show`: values in, lines out.

On a terminal the lines fit its width: long text is wrapped, and columns that do not fit go to a second line below their
row. No name is ever cut. Into a pipe every row is one line, whatever its length.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Optional

from vfmigrate.text import command, printable, say

_MARK = "! "
_GAP = "  "
_VF_COLUMNS = ("VF", "STATE", "DRIVER", "MIGR", "REPRESENTOR", "TAG", "GUEST")
_WIDE_COLUMNS = ("MAC", "STRATEGY", "MSIX")
# A text column that has less room than this is moved to a line of its own.
_TEXT_WIDTH = 24
_YES_NO = {True: "yes", False: "no"}
# What stands on a second line is indented by this, compared to its row.
_CONTINUED = "    "

#: what the daemon answers, or a part of it
Answer = Mapping[str, Any]
#: how wide lines may be; None: as long as they are
Width = Optional[int]


def width() -> Width:
    """The width of the terminal that standard output is; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show(render: Callable[[Width], Iterator[str]]) -> None:
    """Print lines that are rendered for the width of standard output."""
    for line in render(width()):
        say(line)


def table(rows: Sequence[Sequence[str]], width: Width, indent: str = "") -> Iterator[str]:
    """Rows with aligned columns, the header first; the last column is text, and is wrapped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    groups = _groups(widths, width, indent)
    for row in rows:
        lines = [
            margin + "".join(row[column].ljust(widths[column]) + _GAP for column in group)
            for margin, group in groups
        ]
        head, text = lines.pop(), row[-1]
        yield from (line.rstrip() for line in lines)
        if width is None or not text:
            yield (head + text).rstrip()
        elif width - len(head) >= min(len(text), max(_TEXT_WIDTH, _longest_word(text))):
            yield from wrapped(text, width, head, " " * len(head))
        else:
            yield head.rstrip()
            yield from wrapped(text, width, indent + _CONTINUED)


def _groups(widths: Sequence[int], width: Width, indent: str) -> list[tuple[str, list[int]]]:
    """The columns that go to each line of a row, and what that line begins with."""
    groups: list[tuple[str, list[int]]] = [(indent, [])]
    used = len(indent)
    for column, size in enumerate(widths):
        if width is not None and groups[-1][1] and used + size > width:
            groups.append((indent + _CONTINUED, []))
            used = len(indent + _CONTINUED)
        groups[-1][1].append(column)
        used += size + len(_GAP)
    return groups


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def wrapped(text: str, width: Width, indent: str = "", hanging: str = "") -> list[str]:
    """The lines of a text; those after the first begin with `hanging`, or with two more blanks than the first."""
    text = printable(text)
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=hanging or f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


# -- vfmigrate status


def status(answer: Answer, width: Width, *, wide: bool = False) -> Iterator[str]:
    """The lines of `vfmigrate status`; `wide`: with MAC, strategy and MSI-X count of each VF."""
    claims = {each["id"]: each for each in answer["claims"]} if wide else None
    yield from _problems(answer.get("problems", ()), width, "")
    if not answer["pools"]:
        yield "no pools are configured: see /etc/vfmigrate/vfmigrate.conf"
    for pool in answer["pools"]:
        vfs = [vf for pf in pool["pfs"] for vf in pf["vfs"]]
        free = sum(vf["state"] == "free" for vf in vfs)
        network = f", network {pool['network']}" if pool["network"] else ""
        yield from wrapped(
            f"pool {pool['name']}: bridge {pool['bridge']}{network}, {free} of {len(vfs)} VFs free", width
        )
        yield from _problems(pool["problems"], width, "  ")
        for pf in pool["pfs"]:
            yield from _pf(pf, width, claims)


def _pf(pf: Answer, width: Width, claims: Optional[Mapping[str, Answer]]) -> Iterator[str]:
    facts = [
        pf.get("mode") or "mode unknown",
        f"PSID {pf.get('psid') or '-'}",
        f"fw {pf.get('firmware') or '-'}",
        f"offload {pf['offload'] or 'unknown'}",
    ]
    support = pf.get("support")
    if "support" in pf and not (support and support["stop_copy"]):
        facts.append("migration no" if support else "migration unknown")
    if pf.get("migrating"):
        facts.append(f"{pf['migrating']} of at most {pf['max_migrating']} VFs migrating to this host")
    yield from wrapped(f"PF {pf['address']}: {', '.join(facts)}", width, "  ")
    yield from _problems(pf["problems"], width, "    ")
    if pf["vfs"]:
        head = _VF_COLUMNS if claims is None else (*_VF_COLUMNS[:-1], *_WIDE_COLUMNS, _VF_COLUMNS[-1])
        yield from table([head, *(_vf(vf, claims) for vf in pf["vfs"])], width, "    ")
    for vf in pf["vfs"]:
        yield from _problems([f"{vf['address']}: {problem}" for problem in vf["problems"]], width, "    ")


def _vf(vf: Answer, claims: Optional[Mapping[str, Answer]]) -> Sequence[str]:
    more: Sequence[str] = ()
    if claims is not None:
        claim = claims.get(vf["claim"], {})
        more = (claim.get("mac") or "-", claim.get("strategy") or "-", str(vf["msix"] or "-"))
    return (
        vf["address"],
        vf["state"],
        vf["driver"] or "-",
        _YES_NO.get(vf["migratable"], "-"),
        vf["representor"] or "-",
        str(vf["tag"]) if vf["tag"] is not None else "-",
        *more,
        vf["guest"] or vf["holder"] or "-",
    )


def _problems(problems: Sequence[str], width: Width, indent: str) -> Iterator[str]:
    for problem in problems:
        yield from wrapped(_MARK + problem, width, indent)


# -- vfmigrate list


def guests(found: Sequence[Answer], width: Width) -> Iterator[str]:
    """The lines of `vfmigrate list`: one for each guest."""
    if not found:
        yield "no guest has a VF"
        return
    rows = [("GUEST", "STATE", "STRATEGY", "POOL", "VLAN", "PF", "CAN LEAVE")]
    for each in found:
        values = (_joined(vf[key] for vf in each["vfs"]) for key in ("strategy", "pool", "vlan", "pf"))
        strategy, pool, vlan, pf = values
        rows.append((each["name"], each["state"], strategy, pool, vlan, pf, _can_leave(each)))
    yield from table(rows, width)


def _joined(values: Iterable[object]) -> str:
    """The different values of the VFs of a guest, in their order."""
    return ",".join(dict.fromkeys("-" if value is None else str(value) for value in values))


def _can_leave(guest: Answer) -> str:
    can = guest["can_leave"]
    if can is None:
        return "unknown" if guest["state"] == "running" else "-"
    reasons = [_with_remedy(each) for each in guest["problems"] if can or each["severity"] == "error"]
    return ". ".join([f"{_YES_NO[can]}: {reasons[0]}", *reasons[1:]]) if reasons else _YES_NO[can]


# -- vfmigrate where


def where(answer: Answer, width: Width) -> Iterator[str]:
    """The lines of `vfmigrate where`: each host and why it cannot take the guest, and the cards of all."""
    hosts = [(each["name"] or each["uri"], _can_take(answer["guest"], each)) for each in answer["hosts"]]
    yield from table([("HOST", "CAN TAKE IT"), *hosts], width)
    if not answer["cards"]:
        return
    yield ""
    columns = ("host", "pool", "pf", "psid", "firmware", "free")
    cards = [
        tuple("-" if each[key] is None else str(each[key]) for key in columns) for each in answer["cards"]
    ]
    yield from table([("HOST", "POOL", "PF", "PSID", "FIRMWARE", "FREE VFS"), *cards], width)


def _can_take(guest: str, host: Answer) -> str:
    if host["error"] is not None:
        error = host["error"]
        text = f"{error['problem']}; {error['remedy']}" if error["remedy"] else str(error["problem"])
        return f"{'unknown' if host['can_take'] is None else 'no'}: {text}"
    if host["can_take"]:
        return "yes"
    first, *more = host["problems"]
    others = f" ({len(more)} more: {command('vfmigrate', 'check', guest, host['uri'])})" if more else ""
    return f"no: {_with_remedy(first)}{others}"


# -- vfmigrate provision


def provision(answer: Answer, width: Width, pf: Optional[str] = None) -> Iterator[str]:
    """The lines of `vfmigrate provision`: changes that were made, or would be, and findings; `pf`: only of this PF."""
    if not answer["pools"]:
        yield f"{f'no pool has PF {pf}' if pf else 'no pools are configured'}; nothing to provision"
    for pool in answer["pools"]:
        name = pool["pool"]
        for change in pool["changes"]:
            yield from wrapped(f"{name}: {'would ' if answer['dry_run'] else ''}{change}", width)
        for finding in pool["findings"]:
            yield from wrapped(f"{name}: {finding['severity']}: {_with_remedy(finding)}", width)
        if not pool["changes"] and pool["error"] is None:
            yield f"{name}: nothing to change"


def _with_remedy(finding: Answer) -> str:
    return f"{finding['text']}; {finding['remedy']}" if finding["remedy"] else str(finding["text"])


# -- vfmigrate reconcile


def reconcile(answer: Answer, width: Width) -> Iterator[str]:
    """The lines of `vfmigrate reconcile`."""
    nothing = "nothing was changed" if answer["problems"] else "nothing to do"
    for change in answer["changes"] or [nothing]:
        yield from wrapped(change, width)


# -- vfmigrate check

_SIDES = {"source": "source {source}", "destination": "destination {destination}", "pair": "both hosts"}


def check(answer: Answer, width: Width, *, verbose: bool = False) -> Iterator[str]:
    """The lines of `vfmigrate check`: the problems of each host and of both, and the verdict.

    `verbose`: the results without problems too.
    """
    for side, title in _SIDES.items():
        results = [
            each
            for each in answer["checks"]
            if each["side"] == side and (verbose or each["severity"] != "ok")
        ]
        if results:
            yield f"{title.format(**answer)}:"
        for each in results:
            yield from wrapped(f"{each['severity']:<7}  {_with_remedy(each)}", width, "  ", " " * 11)
            yield from (f"{' ' * 11}{line}" for line in each["detail"].splitlines())
    yield from wrapped(verdict(answer), width)


def verdict(answer: Answer) -> str:
    """The result of `vfmigrate check` in one line."""
    severities = [each["severity"] for each in answer["checks"]]
    errors, warnings = severities.count("error"), severities.count("warning")
    counts = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}, {severities.count('ok')} ok"
    return f"guest '{answer['guest']}' {'cannot' if errors else 'can'} migrate to {answer['destination']}: {counts}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- vfmigrate failover show


def failover_pairs(pairs: Sequence[Answer], width: Width) -> Iterator[str]:
    """The lines of `vfmigrate failover show`."""
    if not pairs:
        yield "no failover pair"
        return
    rows = [("VF", "STANDBY", "VLAN", "ALIAS", "PROBLEM" if any(each["problem"] for each in pairs) else "")]
    for each in pairs:
        standby = f"{each['kind']} {each['source']}" if each["standby"] else "no standby"
        vlan = str(each["vlan"]) if each["vlan"] is not None else "-"
        rows.append((each["mac"], standby, vlan, each["alias"], each["problem"] or ""))
    yield from table(rows, width)


# -- vfmigrate ovirt profile show


def vnic_profiles(profiles: Sequence[Answer], names: Mapping[str, str], width: Width) -> Iterator[str]:
    """The lines of `vfmigrate ovirt profile show`; `names` are those of all profiles by id."""
    rows = [("PROFILE", "PASSTHROUGH", "MIGRATABLE", "FAILOVER", "ID", "PROPERTIES")]
    for each in sorted(profiles, key=lambda profile: (profile["network"], profile["name"])):
        failover = names.get(each["failover"], each["failover"]) if each["failover"] else "-"
        properties = " ".join(f"{key}={value}" for key, value in sorted(each["properties"].items()))
        rows.append(
            (
                names[each["id"]],
                _YES_NO[each["pass_through"]],
                _YES_NO[each["migratable"]],
                failover,
                each["id"],
                properties or "-",
            )
        )
    yield from table(rows, width)
