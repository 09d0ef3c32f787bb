# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespace hosts as fixtures: started once for the whole run, reset for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import roots
from tests.integration.pair import Pair, start_products, started_pair
from tests.testbed.root import host_root

FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def _started_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    first, second = roots.releases()
    place = tmp_path_factory.mktemp("hosts")
    with started_pair(host_root(second), place, first=host_root(first)) as pair:
        yield pair


@pytest.fixture
def pair(_started_pair: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts with a card each, no guest, no daemon; their logs are shown when the test fails."""
    _started_pair.reset()
    yield _started_pair
    if request.node.stash.get(FAILED, False):
        for title, text in _started_pair.logs().items():
            request.node.add_report_section("teardown", title, text)


@pytest.fixture
def ready(pair: Pair) -> Pair:
    """Both hosts with vfmigrate running and its pools ready."""
    start_products(pair)
    return pair


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Record on the test whether it failed, for fixtures that then print more."""
    outcome = yield
    if outcome.get_result().failed:  # type: ignore[attr-defined]  # pluggy's result, typed from pytest 9 on
        item.stash[FAILED] = True
