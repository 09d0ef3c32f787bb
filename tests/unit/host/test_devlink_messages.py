# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the ports of a devlink instance belong to the PF's own VFs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest

from vfmigrate.host.devlink_messages import Port, local_vf_ports
from vfmigrate.model.pci import PciAddress

PF = PciAddress.parse("0000:e1:00.1")


def vf_port(
    index: int, vf: int, *, pf: Optional[int] = 1, controller: int = 0, external: bool = False
) -> Port:
    return Port(index, "pcivf", vf, pf, controller, external, 100 + index, f"rep{index}", None, None)


def physical(index: int, number: Optional[int]) -> Port:
    return Port(index, "physical", None, None, 0, False, 100 + index, f"p{number}", None, None, number)


@pytest.mark.parametrize(
    ("ports", "own"),
    [
        pytest.param([physical(9, 0), vf_port(1, 0), vf_port(2, 1)], {0: 1, 1: 2}, id="plain"),
        pytest.param([vf_port(1, 0, pf=0)], {0: 1}, id="numbered by physical port, not by PCI function"),
        pytest.param([vf_port(1, 0, controller=1)], {0: 1}, id="local port with a controller number"),
        pytest.param(
            [vf_port(1, 0, controller=1, external=True)], {}, id="a DPU shows the VFs of its host only"
        ),
        pytest.param(
            [vf_port(1, 0, controller=1, external=True), vf_port(2, 0)],
            {0: 2},
            id="a DPU with VFs of its own",
        ),
        pytest.param([vf_port(1, 0, pf=0), vf_port(2, 0), vf_port(3, 1, pf=0)], {0: 2}, id="VFs of two PFs"),
        pytest.param(
            [physical(9, 4), vf_port(1, 0, pf=3), vf_port(2, 0, pf=4)],
            {0: 2},
            id="VFs of two PFs that are numbered by physical port",
        ),
        pytest.param([vf_port(1, 0, pf=3), vf_port(2, 0, pf=4)], {}, id="undecidable"),
        pytest.param([vf_port(1, 0, controller=2), vf_port(2, 0)], {0: 2}, id="another local controller"),
        pytest.param(
            [vf_port(1, 0, controller=2, pf=7), vf_port(2, 0, pf=5)], {0: 2}, id="controller before PF number"
        ),
        pytest.param([vf_port(1, 0, pf=None)], {0: 1}, id="a driver that gives PFs no number"),
        pytest.param([], {}, id="legacy mode"),
    ],
)
def test_ports_of_own_vfs_are_parsed(ports: Sequence[Port], own: dict[int, int]) -> None:
    for order in (ports, ports[::-1]):
        assert {vf: port.index for vf, port in local_vf_ports(PF, order).items()} == own
