# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a migration under way will come to its end, and what to do when it will not. Pure: figures in, verdicts out.

QEMU copies a guest's memory in passes; each pass copies what the guest wrote during the one before. It stops the guest
and copies the rest when that takes no longer than the allowed downtime. With a VF the rest has the device's state in
it, which no figure of libvirt's tells beforehand: it shows by memory alone being small enough and QEMU going on all
the same.

The figures' names: libvirt's virDomainGetJobStats (VIR_DOMAIN_JOB_*). They count memory only: what a VF itself writes
to it is not in the dirty rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional, Union

from vfmigrate.model.progress import Progress

#: what QEMU allows itself unless told otherwise, in ms (migration parameter downtime-limit)
USUAL_DOWNTIME_MS = 300
#: seconds without getting closer to the end before something is done about it
PATIENCE = 10.0
#: what is left must shrink by this part of it to count as getting closer
_CLOSER = 0.1
#: room above what the figures ask for, since the guest does not write evenly
_MARGIN = 1.25
#: passes that must have shown the same before it is believed
_PASSES = 2


def read(stats: Mapping[str, int]) -> Progress:
    """The progress in what libvirt tells of a job."""
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
class Allow:
    """Let the guest stand still for longer: so many ms."""

    downtime_ms: int
    why: str


@dataclass(frozen=True)
class Stop:
    """Give the migration up: it does not come to an end."""

    why: str
    remedies: tuple[str, ...]


Verdict = Union[Allow, Stop]


@dataclass(frozen=True)
class Terms:
    """What there is to decide with."""

    #: the longest standstill that the administrator allows, in ms
    max_downtime_ms: int
    #: the guest has VFs whose state travels
    vfs: bool = False
    #: a limit on the bandwidth was asked for
    limited: bool = False
    #: several connections are used already
    parallel: bool = False


@dataclass
class Watch:
    """Watches one migration; remembers what it saw, and decides."""

    terms: Terms
    allowed_ms: int = USUAL_DOWNTIME_MS
    _iteration: int = 0
    #: what was left at the beginning of this pass
    _peak: int = 0
    #: the least that was ever left at the beginning of a pass
    _best: Optional[int] = None
    #: since when it does not get closer, in seconds of the migration, and in passes
    _since: Optional[float] = None
    _passes: int = 0
    _faster: bool = field(default=True)

    def look(self, now: Progress) -> Optional[Verdict]:
        """Take note of how far it is; Allow or Stop when something is to be done, else None."""
        if now.iteration < 2 or not now.total:
            return None  # every page has to go once, however long that takes
        if now.iteration != self._iteration:
            self._begin_pass(now)
        # The sample may come when part of the pass is done: what is left is at least this.
        self._peak = max(self._peak, now.remaining)
        if self._since is None:
            self._since = now.elapsed
        self._faster = self._faster and now.dirty_rate >= now.rate > 0
        if now.elapsed - self._since < PATIENCE or not (self._passes >= _PASSES or self._faster):
            return None
        self._start_over(now)
        return self._decide(now)

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

    def _decide(self, now: Progress) -> Verdict:
        left = min(size for size in (self._best, self._peak) if size is not None)
        needed = now.needed_ms(left)
        memory_fits = needed <= self.allowed_ms
        most = self.terms.max_downtime_ms
        if self.allowed_ms < most:
            wanted = self.allowed_ms * 2 if memory_fits else needed * _MARGIN
            self.allowed_ms = round(min(most, max(wanted, self.allowed_ms + 1)))
            return Allow(self.allowed_ms, self._told(now, needed, memory_fits=memory_fits))
        return Stop(self._told(now, needed, memory_fits=memory_fits), self._remedies(memory_fits=memory_fits))

    def _told(self, now: Progress, needed: float, *, memory_fits: bool) -> str:
        if memory_fits and self.terms.vfs:
            return (
                f"memory would be copied within {needed:.0f} ms, but the state of the VF is larger than "
                f"what {mib(now.rate)}/s carry in the allowed downtime"
            )
        if now.dirty_rate >= now.rate:
            return (
                f"the guest writes {mib(now.dirty_rate)}/s of memory and {mib(now.rate)}/s are copied"
                f"{needing(needed)}"
            )
        return f"it does not get closer to its end{needing(needed)}"

    def _remedies(self, *, memory_fits: bool) -> tuple[str, ...]:
        """Of the manual's remedies those that apply; post-copy is none with a VF, and is never used."""
        remedies = []
        if not (memory_fits and self.terms.vfs):
            remedies.append("reduce what the guest writes")
        remedies.append(f"allow more than {self.terms.max_downtime_ms} ms with --max-downtime")
        if self.terms.limited:
            remedies.append("raise or drop --bandwidth")
        elif not self.terms.parallel:
            remedies.append("use more of the network with --parallel")
        remedies.append("let the guest be suspended for the rest with --timeout")
        return tuple(remedies)


def mib(size: float) -> str:
    """Bytes as MiB, for people."""
    return f"{size / 2**20:.1f} MiB"


def needing(ms: float) -> str:
    """How long the guest would have to stand still, as the end of a sentence."""
    return "" if ms == float("inf") else f": it would have to stand still for about {ms:.0f} ms"
