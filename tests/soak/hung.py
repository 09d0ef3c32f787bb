# SPDX-License-Identifier: GPL-2.0-or-later
"""Each service of a host hangs during each operation of the hook: how long the hook takes, and another guest's."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.integration.hung_matrix import (
    MODULAR_SERVICES,
    MONOLITHIC_SERVICES,
    OPERATIONS,
    SECOND_PF,
    Matrix,
    start_product,
    stop_product,
)
from tests.integration.libvirt_setup import MONOLITHIC, LibvirtSetup
from tests.integration.pair import started_pair
from tests.soak.tally import FAULTS, Tally
from tests.testbed import images, root


def run() -> list[Tally]:
    """Fill the matrix, with libvirt's one daemon and with its modular ones."""
    return [
        _run("hung services", MONOLITHIC),
        _run("hung services of modular libvirt", LibvirtSetup(modular=True)),
    ]


def _run(name: str, libvirt: LibvirtSetup) -> Tally:
    tally = Tally(name, FAULTS)
    begun = time.monotonic()
    host_root = root.el_host_root() if libvirt.modular else images.host_root()
    with (
        tempfile.TemporaryDirectory() as place,
        started_pair(host_root, Path(place), libvirt=libvirt, more_pfs=[SECOND_PF]) as pair,
    ):
        pair.a.reset()
        start_product(pair.a)
        try:
            matrix = Matrix(pair.a)
            for each, service in (MODULAR_SERVICES if libvirt.modular else MONOLITHIC_SERVICES).items():
                for operation in OPERATIONS:
                    cell = matrix.cell(each, service, operation)
                    tally.tried += 1
                    tally.measured[f"{each}, {operation}"] = (
                        f"{cell.outcome} after {cell.own_s:.2f} s; another guest's hook at most {cell.other_s:.2f} s"
                    )
                    print(f"{each}, {operation}: {tally.measured[f'{each}, {operation}']}", flush=True)
                    if cell.wrong:
                        tally.fail(f"{each}, {operation}: {'; '.join(cell.wrong)}")
        finally:
            stop_product(pair.a)
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
