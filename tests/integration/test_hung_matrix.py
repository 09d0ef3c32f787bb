# SPDX-License-Identifier: GPL-2.0-or-later
"""A small part of the matrix of hung services and hook operations; `make soak` fills the whole (tests/soak/hung.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.hung_matrix import (
    MODULAR_SERVICES,
    MONOLITHIC_SERVICES,
    SECOND_PF,
    Matrix,
    start_product,
    stop_product,
)
from tests.integration.libvirt_setup import MONOLITHIC, LibvirtSetup
from tests.integration.pair import Node, started_pair
from tests.testbed import images, root

pytestmark = pytest.mark.hosts


@contextmanager
def _host(host_root: Path, place: Path, libvirt: LibvirtSetup = MONOLITHIC) -> Iterator[Node]:
    with started_pair(host_root, place, libvirt=libvirt, more_pfs=[SECOND_PF]) as pair:
        pair.a.reset()
        start_product(pair.a)
        yield pair.a
        stop_product(pair.a)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with _host(images.host_root(), tmp_path_factory.mktemp("hung")) as node:
        yield Matrix(node)


@pytest.fixture(scope="module")
def modular_matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    place = tmp_path_factory.mktemp("hung-modular")
    with _host(root.el_host_root(), place, LibvirtSetup(modular=True)) as node:
        yield Matrix(node)


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("journald", "start"),
        ("journald", "release"),
        ("read-only disk", "prepare"),
        ("read-only disk", "release"),
        ("full disk", "migrate"),
        ("full disk", "stopped"),
        ("devlink of one card", "started"),
    ],
)
def test_a_service_that_hangs_during_a_hook_is_answered_for(
    matrix: Matrix, service: str, operation: str
) -> None:
    assert matrix.cell(service, MONOLITHIC_SERVICES[service], operation).wrong == []


@pytest.mark.parametrize("operation", ["migrate", "start", "release"])
def test_no_hook_waits_for_virtnetworkd(modular_matrix: Matrix, operation: str) -> None:
    assert modular_matrix.cell("virtnetworkd", MODULAR_SERVICES["virtnetworkd"], operation).wrong == []
