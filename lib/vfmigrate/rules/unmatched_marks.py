# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks that no VF of a guest has, and VFs without a mark: which belong together, or that nothing says it. Pure.

A mark gives a VF its MAC and VLAN. A VF that does not get its mark would start with what the pool gives to interfaces
that no mark names, which can be a trunk of all VLANs. So it is found by elimination where there is only one way, and
refused otherwise. Marks can be written before their VF is plugged in: those of another pool, and those that would
change nothing, say nothing of other VFs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Callable, Optional

from vfmigrate.config.pool import Pool
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.rules import compatibility
from vfmigrate.text import quoted


def left_over(domain: Domain) -> list[Mark]:
    """The marks that no interface has."""
    taken = [each.mark for each in domain.interfaces if each.mark is not None]
    return [mark for mark in domain.marks if mark not in taken]


def here(
    domain: Domain, pools: Mapping[int, Optional[Pool]], waiting: Collection[Optional[str]] = ()
) -> dict[int, Mark]:
    """The marks of VFs of this host that have none, by their positions, as far as elimination finds them.

    `pools` are those of the domain's VFs without a mark and without a claim, by position; None for a VF of no pool.
    `waiting` are MACs of VFs that are plugged in later. Raises Refused where a mark could be that of several, or
    contradicts the VF.
    """
    unmarked = [each for each in domain.interfaces if each.position in pools and each.mark is None]
    _check_macs(domain, [each for each in unmarked if pools[each.position] is not None])
    marks = [mark for mark in left_over(domain) if mark.mac not in waiting]

    def fits(mark: Mark, interface: VfInterface) -> bool:
        pool = pools[interface.position]
        return pool is not None and mark.pool in (None, pool.name)

    found, marks = _eliminate(domain, [each for each in unmarked if each.form == "hostdev"], marks, fits)
    for each in unmarked:
        for mark in marks:
            if each.position in found:
                continue
            pool = pools[each.position]
            if pool is not None and fits(mark, each) and _matters(mark, each, pool):
                raise _unclear(domain, each, mark)
            if each.form == "hostdev" and None not in (mark.address, mark.pool) and not fits(mark, each):
                raise wrong_pool(domain, each, mark, pool.name if pool is not None else None)
    return found


def arriving(domain: Domain) -> dict[int, Mark]:
    """As `here`, for a guest that arrives: its VFs are those of another host, which wrote an address into each mark.

    Marks without an address are of VFs that are not plugged in, and so are those of strategies that unplug the VF.
    """
    unmarked = [each for each in domain.interfaces if each.mark is None and each.address is not None]
    _check_macs(domain, unmarked)
    marks = [
        mark
        for mark in left_over(domain)
        if mark.address is not None and strategy.named(mark.strategy).state_travels
    ]
    devices = [each for each in unmarked if each.form == "hostdev"]
    found, marks = _eliminate(domain, devices, marks, lambda _mark, _interface: True)
    for each in unmarked:
        if marks and each.position not in found:
            raise _unclear(domain, each, marks[0])
    return found


def _eliminate(
    domain: Domain, devices: list[VfInterface], marks: list[Mark], fits: Callable[[Mark, VfInterface], bool]
) -> tuple[dict[int, Mark], list[Mark]]:
    """The marks of plain <hostdev>s, and the marks that are left. Raises Refused where there is more than one way."""
    macs = {each.mac for each in domain.interfaces} - {None}
    found: dict[int, Mark] = {}
    left = [mark for mark in marks if mark.mac is None or mark.mac not in macs]
    while True:
        waiting = [each for each in devices if each.position not in found]
        ways = {each.position: [mark for mark in left if fits(mark, each)] for each in waiting}
        sure = [
            (each, ways[each.position][0])
            for each in waiting
            if len(ways[each.position]) == 1
            and sum(ways[each.position][0] in others for others in ways.values()) == 1
        ]
        if not sure:
            break
        for each, mark in sure:
            found[each.position] = mark
            left.remove(mark)
    for each in waiting:
        if ways[each.position]:
            raise _unclear(domain, each, ways[each.position][0])
    return found, left


def _check_macs(domain: Domain, unmarked: Iterable[VfInterface]) -> None:
    """Raises Refused for interfaces with one MAC whose marks nothing tells apart."""
    for each in unmarked:
        marks = [mark for mark in domain.marks if each.mac is not None and mark.mac == each.mac]
        if marks:
            number = sum(other.mac == each.mac for other in domain.interfaces)
            raise Refused(
                f"guest '{domain.name}' has {number} interface{'s' if number > 1 else ''} with MAC {each.mac} and "
                f"{len(marks)} mark{'s' if len(marks) > 1 else ''} for it in its vfmigrate metadata, and nothing says "
                "which belong together",
                f"leave one mark for each interface, in the same order: virsh edit {quoted(domain.name)}",
            )


def _matters(mark: Mark, interface: VfInterface, pool: Pool) -> bool:
    """Whether the VF would get another port or strategy with the mark than without it."""
    with_mark = replace(interface, mark=mark)
    try:
        port = compatibility.port_vlan(with_mark, pool)
    except Refused:
        return True
    without = (pool.vlan, () if pool.vlan is not None else pool.default_trunks)
    return port != without or with_mark.strategy != interface.strategy


def _label(interface: VfInterface) -> str:
    return f"the VF with MAC {interface.mac}" if interface.mac else f"VF {interface.address}"


def _unclear(domain: Domain, interface: VfInterface, mark: Mark) -> Refused:
    return Refused(
        f"the vfmigrate metadata of guest '{domain.name}' has nothing for {_label(interface)}, and a mark that no VF "
        f"of the guest has: {mark_text(mark)}",
        f"correct mac and address of the mark, or remove it: virsh edit {quoted(domain.name)}",
    )


def wrong_pool(domain: Domain, interface: VfInterface, mark: Mark, pool: Optional[str]) -> Refused:
    """The refusal of a VF whose mark names another pool."""
    of = f"of pool '{pool}'" if pool is not None else "in no pool of this host"
    return Refused(
        f"{_label(interface)} of guest '{domain.name}' is to be of pool '{mark.pool}' by the vfmigrate metadata, but "
        f"{interface.address} is {of}",
        f"give the guest a VF of pool '{mark.pool}', or correct the metadata: virsh edit {quoted(domain.name)}",
    )


def mark_text(mark: Mark) -> str:
    """A mark in words: what it is found by."""
    words = {"mac": mark.mac, "address": mark.address}
    return " ".join(f"{key}='{word}'" for key, word in words.items() if word is not None)
