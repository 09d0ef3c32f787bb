# SPDX-License-Identifier: GPL-2.0-or-later
"""On which PF each VF of a guest is: apart as where it comes from, then near its memory."""

from __future__ import annotations

from typing import Optional

import pytest

from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import spread
from vfmigrate.rules.spread import Sibling, Wish

A, B = (PciAddress(0, 0x10, 0, function) for function in (0, 1))
X, Y, Z = (PciAddress(0, 0x20, 0, function) for function in (0, 1, 2))


def place(sources: list[Optional[PciAddress]], free: dict[PciAddress, int]) -> list[PciAddress]:
    """Choose one PF after the other, as `Selection` does; of equal ones the last."""
    left, siblings = dict(free), list[Sibling]()
    for source in sources:
        wish = Wish(source, tuple(siblings), sources)
        open_ones = [pf for pf, number in left.items() if number]
        best = min(reversed(open_ones), key=lambda pf: wish.cost(pf, left[pf]))
        left[best] -= 1
        siblings.append(Sibling(best, source))
    return [each.here for each in siblings]


@pytest.mark.parametrize(
    ("sources", "free", "groups"),
    [
        pytest.param([A, B], {X: 4, Y: 4}, [[0], [1]], id="a bond over two PFs"),
        pytest.param([A, B], {X: 1, Y: 4}, [[0], [1]], id="little room"),
        pytest.param([A, A, B, B], {X: 4, Y: 4}, [[0, 1], [2, 3]], id="bonds of 0+2 and 1+3"),
        pytest.param([A, B, A, B], {X: 4, Y: 4}, [[0, 2], [1, 3]], id="bonds of 0+1 and 2+3"),
        pytest.param([A, A, B], {X: 2, Y: 1}, [[0, 1], [2]], id="one PF has room for one only"),
        pytest.param([A, A, B], {X: 1, Y: 2}, [[0, 1], [2]], id="the other one has"),
        pytest.param([A, A], {X: 4, Y: 4}, [[0], [1]], id="on one PF before: apart where that can be"),
        pytest.param([None, None], {X: 4, Y: 4}, [[0], [1]], id="not known"),
        pytest.param([A, B], {X: 4}, [[0, 1]], id="there is one PF only"),
        pytest.param([A, B], {X: 4, Y: 4, Z: 4}, [[0], [1]], id="three PFs"),
    ],
)
def test_vfs_that_were_apart_are_apart(
    sources: list[Optional[PciAddress]], free: dict[PciAddress, int], groups: list[list[int]]
) -> None:
    here = place(sources, free)
    found = [[at for at, pf in enumerate(here) if pf == one] for one in dict.fromkeys(here)]
    assert found == groups


def test_the_node_of_the_memory_is_the_second_wish() -> None:
    near = Wish(nodes=frozenset({1}), node_of={X: 0, Y: 1})
    assert near.cost(Y, 1) < near.cost(X, 1)
    taken = Wish(siblings=(Sibling(Y),), nodes=frozenset({1}), node_of={X: 0, Y: 1})
    assert taken.cost(X, 1) < taken.cost(Y, 1)
    unknown = Wish(nodes=frozenset({1}), node_of={X: None, Y: None})
    assert unknown.cost(X, 1) == unknown.cost(Y, 1)


def test_lost_redundancy_is_noticed() -> None:
    assert spread.lost([Sibling(X, A), Sibling(X, B)]) == [X]
    assert spread.lost([Sibling(X, A), Sibling(Y, B)]) == []
    assert spread.lost([Sibling(X, A), Sibling(X, A), Sibling(X)]) == []


def test_a_network_lists_one_vf_of_each_pf_in_turn() -> None:
    first, second = ([PciAddress(0, bus, 0, function) for function in range(2)] for bus in (1, 2))
    assert spread.interleaved([first, second[:1]]) == [first[0], second[0], first[1]]
    assert spread.interleaved([]) == []
