# SPDX-License-Identifier: GPL-2.0-or-later
"""Which mark in a domain's metadata is that of which interface. Pure.

A MAC need not be unique in a guest: the VFs of a bond in the guest can share one, each in its own VLAN. So marks are
found by MAC and host address together, then by MAC in the order of the XML, then by host address. What is left over is
for those who know the host (`rules.unmatched_marks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from vfmigrate.domain.metadata import Mark

if TYPE_CHECKING:
    from vfmigrate.domain.domain_xml import VfInterface


class _Matching:
    """The marks that were found so far, and those that are left, by their indices."""

    def __init__(self, interfaces: Sequence[VfInterface], marks: Sequence[Mark]) -> None:
        self.interfaces = interfaces
        self.marks = marks
        self.found: dict[int, Mark] = {}
        self.left = dict(enumerate(marks))

    def take(self, interface: int, mark: int) -> None:
        self.found[interface] = self.left.pop(mark)

    def by_both(self) -> None:
        for at, interface in enumerate(self.interfaces):
            for key, mark in self.left.items():
                named = mark.address is not None and mark.address == interface.address
                # the XML of a plain <hostdev> has no MAC
                if named and (interface.form == "hostdev" or mark.mac == interface.mac):
                    self.take(at, key)
                    break

    def by_mac(self) -> None:
        for mac in dict.fromkeys(each.mac for each in self.interfaces if each.mac is not None):
            of_mac = [at for at, each in enumerate(self.interfaces) if each.mac == mac]
            without = [at for at in of_mac if at not in self.found]
            keys = [key for key, mark in self.left.items() if mark.mac == mac]
            if len(keys) == 1 and without == of_mac:
                # one mark for all interfaces with this MAC
                mark = self.left.pop(keys[0])
                self.found.update(dict.fromkeys(without, mark))
            elif len(keys) == len(without) or len({self.marks[key].without_vf() for key in keys}) == 1:
                for at, key in zip(without, keys):
                    self.take(at, key)

    def by_address(self) -> None:
        macs = {each.mac for each in self.interfaces} - {None}
        for at, interface in enumerate(self.interfaces):
            if at in self.found or interface.address is None:
                continue
            for key, mark in self.left.items():
                # an <interface> whose MAC was changed, and not its mark's
                if mark.address == interface.address and mark.mac not in macs:
                    self.take(at, key)
                    break


def match(interfaces: Sequence[VfInterface], marks: Sequence[Mark]) -> list[Optional[Mark]]:
    """The mark of each interface; None where none is its own for certain."""
    matching = _Matching(interfaces, marks)
    matching.by_both()
    matching.by_mac()
    matching.by_address()
    return [matching.found.get(at) for at in range(len(interfaces))]
