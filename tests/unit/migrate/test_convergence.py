# SPDX-License-Identifier: GPL-2.0-or-later
"""Convergence of simulated migrations: when more downtime is allowed, when they are cancelled, and the messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfmigrate.migrate.convergence import (
    ConvergenceLimits,
    ConvergenceWatch,
    GiveUp,
    RaiseDowntime,
    Verdict,
    read,
)
from vfmigrate.model.migration_options import USUAL_DOWNTIME_MS

MIB = 2**20
PAGE = 4096


@dataclass
class Qemu:
    """QEMU's precopy by its rules: passes over what was written, an end when the rest fits the allowed downtime."""

    total: int
    rate: int
    dirty_rate: int
    working_set: int
    vf_state: int = 0
    allowed_ms: int = USUAL_DOWNTIME_MS
    elapsed: float = 0.0
    iteration: int = 1
    left: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.total

    def step(self, seconds: float = 0.25) -> Optional[dict[str, int]]:
        """Go on for so long; what libvirt would tell, or None when the guest has gone over."""
        end = self.elapsed + seconds
        while self.elapsed < end:
            # to the end of the pass, or of the time; QEMU looks at most ten times a second whether it is through
            lasts = min(max(self.left / self.rate, 0.1), end - self.elapsed)
            self.elapsed += lasts
            self.left -= self.rate * lasts
            self.written = min(self.working_set, self.written + self.dirty_rate * lasts)
            if self.left <= 0:
                self.left, self.written = self.written, 0.0
                self.iteration += 1
                if self.left + self.vf_state <= self.rate * self.allowed_ms / 1000:
                    return None
        return {
            "time_elapsed": round(self.elapsed * 1000),
            "memory_total": self.total,
            "memory_remaining": round(self.left),
            "memory_bps": self.rate,
            "memory_dirty_rate": self.dirty_rate // PAGE if self.iteration > 1 else 0,
            "memory_page_size": PAGE,
            "memory_iteration": self.iteration,
        }


def conduct(qemu: Qemu, terms: ConvergenceLimits, seconds: float = 3600) -> list[Verdict]:
    """ConvergenceWatch it to its end, and obey; returns the verdicts. Fails when nothing happens for an hour."""
    watch = ConvergenceWatch(terms)
    verdicts: list[Verdict] = []
    while qemu.elapsed < seconds:
        stats = qemu.step()
        if stats is None:
            return verdicts
        verdict = watch.decide(read(stats))
        if verdict is not None:
            verdicts.append(verdict)
        if isinstance(verdict, GiveUp):
            return verdicts
        if isinstance(verdict, RaiseDowntime):
            qemu.allowed_ms = verdict.downtime_ms
    raise AssertionError(f"it never ends: {verdicts}")


def test_an_idle_guest_converges() -> None:
    assert conduct(Qemu(1024 * MIB, 100 * MIB, 0, 0), ConvergenceLimits(1000)) == []


def test_a_long_first_pass_is_allowed() -> None:
    """An hour for the first pass is no reason to worry."""
    assert conduct(Qemu(10 * 1024 * MIB, 10 * MIB, 1 * MIB, 8 * MIB), ConvergenceLimits(1000)) == []


def test_slow_convergence_is_left_alone() -> None:
    assert conduct(Qemu(4096 * MIB, 100 * MIB, 80 * MIB, 4096 * MIB), ConvergenceLimits(1000)) == []


def test_a_guest_that_dirties_too_fast_gets_more_downtime() -> None:
    """50 MiB written over and over, by 100 MiB a second: a downtime of half a second."""
    verdicts = conduct(Qemu(1024 * MIB, 100 * MIB, 200 * MIB, 50 * MIB), ConvergenceLimits(1000))
    assert [type(verdict) for verdict in verdicts] == [RaiseDowntime]
    (allowed,) = verdicts
    assert isinstance(allowed, RaiseDowntime)
    assert 500 <= allowed.downtime_ms <= 1000
    assert "the guest dirties 200.0 MiB/s and 100.0 MiB/s are copied" in allowed.why


def test_a_guest_that_never_converges_is_cancelled() -> None:
    verdicts = conduct(
        Qemu(1024 * MIB, 100 * MIB, 200 * MIB, 1024 * MIB), ConvergenceLimits(1000, limited=True)
    )
    stop = verdicts[-1]
    assert isinstance(stop, GiveUp)
    assert stop.remedies == (
        "reduce the guest's load",
        "raise --max-downtime above 1000",
        "raise or omit --bandwidth",
        "have the guest suspended for the rest with --timeout",
    )
    assert "a downtime of about" in stop.why


def test_device_state_that_needs_more_downtime_gets_it() -> None:
    """The remaining memory alone fits, and QEMU does not complete: more downtime is allowed, step by step."""
    qemu = Qemu(1024 * MIB, 100 * MIB, 0, 0, vf_state=70 * MIB)
    verdicts = conduct(qemu, ConvergenceLimits(1000, vfs=True))
    assert [verdict.downtime_ms for verdict in verdicts if isinstance(verdict, RaiseDowntime)] == [600, 1000]
    assert "the VF's device state does not fit" in str(verdicts[0])


def test_device_state_that_never_fits_is_cancelled() -> None:
    verdicts = conduct(
        Qemu(1024 * MIB, 100 * MIB, 0, 0, vf_state=200 * MIB), ConvergenceLimits(1000, vfs=True)
    )
    stop = verdicts[-1]
    assert isinstance(stop, GiveUp)
    assert stop.remedies[0] == "raise --max-downtime above 1000"
    assert "use several connections with --parallel" in stop.remedies
    assert not any("load" in remedy or "post" in remedy for remedy in stop.remedies)


def test_the_downtime_never_exceeds_the_maximum() -> None:
    verdicts = conduct(
        Qemu(1024 * MIB, 100 * MIB, 200 * MIB, 500 * MIB), ConvergenceLimits(USUAL_DOWNTIME_MS)
    )
    assert [type(verdict) for verdict in verdicts] == [GiveUp]


@pytest.mark.parametrize("stats", [{}, {"time_elapsed": 5}, {"memory_iteration": 7}])
def test_missing_figures_lead_to_no_decision(stats: dict[str, int]) -> None:
    assert ConvergenceWatch(ConvergenceLimits(1000)).decide(read(stats)) is None


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 4096),
    rate=st.integers(50, 1000),
    dirty_rate=st.integers(0, 2000),
    working_set=st.integers(0, 4096),
    vf_state=st.integers(0, 500),
    most=st.integers(USUAL_DOWNTIME_MS, 10000),
)
def test_a_migration_always_completes_or_is_cancelled(
    total: int, rate: int, dirty_rate: int, working_set: int, vf_state: int, most: int
) -> None:
    """It completes or is cancelled within some passes over all of the memory, within the allowed downtime."""
    qemu = Qemu(
        total * MIB, rate * MIB, dirty_rate * MIB, min(working_set, total) * MIB, vf_state=vf_state * MIB
    )
    passes = 40 * (1 + total / rate)
    verdicts = conduct(qemu, ConvergenceLimits(most, vfs=vf_state > 0), seconds=1000 + passes)
    for verdict in verdicts:
        assert isinstance(verdict, GiveUp) or verdict.downtime_ms <= most
