# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a running migration converges, and what to do if it does not. Pure: figures in, verdicts out.

QEMU copies a guest's memory in passes; each pass copies what the guest dirtied during the last one. It stops the guest
and copies the rest when that takes no longer than the allowed downtime. With a VF, the rest includes the device state,
whose size libvirt does not report. It shows when the remaining memory alone fits the downtime and QEMU still goes on.

The names of the figures are those of libvirt's virDomainGetJobStats (VIR_DOMAIN_JOB_*). The dirty rate does not include
memory that a VF writes by DMA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional, Union

from vfmigrate.model.migration_options import USUAL_DOWNTIME_MS
from vfmigrate.model.progress import Progress

#: seconds without convergence before a verdict
PATIENCE = 10.0
#: the remaining memory must shrink by this part to count as convergence
_CLOSER = 0.1
#: factor above the computed downtime, since the guest does not dirty evenly
_MARGIN = 1.25
#: passes without convergence before a verdict
_PASSES = 2


def read(stats: Mapping[str, int]) -> Progress:
    """The progress in libvirt's figures of a job."""
    iteration = stats.get("memory_iteration", 0)
    expected = stats.get("downtime")
    return Progress(
        elapsed=stats.get("time_elapsed", 0) / 1000,
        total=stats.get("memory_total", 0),
        remaining=stats.get("memory_remaining", 0),
        rate=stats.get("memory_bps", 0),
        dirty_rate=stats.get("memory_dirty_rate", 0) * stats.get("memory_page_size", 4096),
        iteration=iteration,
        disk_total=stats.get("disk_total", 0),
        disk_remaining=stats.get("disk_remaining", 0),
        vf_state=stats.get("vfio_data_transferred"),
        # before the second pass QEMU gives its limit for its expectation
        expected_downtime=expected if iteration > 1 else None,
    )


@dataclass(frozen=True)
class RaiseDowntime:
    """Raise the allowed downtime to this many ms."""

    downtime_ms: int
    why: str


@dataclass(frozen=True)
class GiveUp:
    """Cancel the migration: it does not converge."""

    why: str
    remedies: tuple[str, ...]


Verdict = Union[RaiseDowntime, GiveUp]


@dataclass(frozen=True)
class ConvergenceLimits:
    """What limits the verdicts."""

    #: the longest downtime that the administrator allows, in ms
    max_downtime_ms: int
    #: the guest has VFs with device state
    vfs: bool = False
    #: the administrator set a bandwidth limit
    limited: bool = False
    #: several connections are already in use
    parallel: bool = False


@dataclass
class ConvergenceWatch:
    """Follows the figures of one migration, and decides."""

    limits: ConvergenceLimits
    allowed_ms: int = USUAL_DOWNTIME_MS
    _iteration: int = 0
    #: the remaining memory at the beginning of this pass
    _peak: int = 0
    #: the least memory that ever remained at the beginning of a pass
    _best: Optional[int] = None
    #: since when it does not converge, in seconds of the migration, and in passes
    _since: Optional[float] = None
    _passes: int = 0
    _faster: bool = field(default=True)

    def decide(self, now: Progress) -> Optional[Verdict]:
        """Record the progress; returns a verdict if something must be done, else None."""
        if now.iteration < 2 or not now.total:
            return None  # the first pass copies every page, however long that takes
        if now.iteration != self._iteration:
            self._begin_pass(now)
        # The sample may come when part of the pass is done: at least this much remained at its beginning.
        self._peak = max(self._peak, now.remaining)
        if self._since is None:
            self._since = now.elapsed
        self._faster = self._faster and now.dirty_rate >= now.rate > 0
        if now.elapsed - self._since < PATIENCE or not (self._passes >= _PASSES or self._faster):
            return None
        self._start_over(now)
        return self._verdict(now)

    def _begin_pass(self, now: Progress) -> None:
        if self._iteration:
            self._end_pass(now)
        self._iteration, self._peak = now.iteration, now.remaining

    def _end_pass(self, now: Progress) -> None:
        self._passes += 1
        if self._best is None or self._peak < self._best * (1 - _CLOSER):
            self._best = self._peak
            self._start_over(now)

    def _start_over(self, now: Progress) -> None:
        self._since, self._passes, self._faster = now.elapsed, 0, True

    def _verdict(self, now: Progress) -> Verdict:
        left = min(size for size in (self._best, self._peak) if size is not None)
        needed = now.needed_ms(left)
        memory_fits = needed <= self.allowed_ms
        most = self.limits.max_downtime_ms
        if self.allowed_ms < most:
            wanted = self.allowed_ms * 2 if memory_fits else needed * _MARGIN
            self.allowed_ms = round(min(most, max(wanted, self.allowed_ms + 1)))
            return RaiseDowntime(self.allowed_ms, self._reason(now, needed, memory_fits=memory_fits))
        return GiveUp(
            self._reason(now, needed, memory_fits=memory_fits), self._remedies(memory_fits=memory_fits)
        )

    def _reason(self, now: Progress, needed: float, *, memory_fits: bool) -> str:
        if memory_fits and self.limits.vfs:
            return (
                f"memory would be copied within {needed:.0f} ms, but the VF's device state does not fit the allowed "
                f"downtime at {mib(now.rate)}/s"
            )
        if now.dirty_rate >= now.rate:
            return (
                f"the guest dirties {mib(now.dirty_rate)}/s and {mib(now.rate)}/s are copied{needing(needed)}"
            )
        return f"the remaining memory does not shrink{needing(needed)}"

    def _remedies(self, *, memory_fits: bool) -> tuple[str, ...]:
        """The remedies that apply; never post-copy, which is not possible with a VF."""
        remedies = []
        if not (memory_fits and self.limits.vfs):
            remedies.append("reduce the guest's load")
        remedies.append(f"raise --max-downtime above {self.limits.max_downtime_ms}")
        if self.limits.limited:
            remedies.append("raise or omit --bandwidth")
        elif not self.limits.parallel:
            remedies.append("use several connections with --parallel")
        remedies.append("have the guest suspended for the rest with --timeout")
        return tuple(remedies)


def mib(size: float) -> str:
    """Bytes as MiB, as text."""
    return f"{size / 2**20:.1f} MiB"


def needing(ms: float) -> str:
    """The downtime that would be needed, as the end of a sentence."""
    return "" if ms == float("inf") else f": a downtime of about {ms:.0f} ms would be needed"
