# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of the command in the journal of the host where it runs: a migration began, and how it ended.

They have the trace ID of the migration, as those of the daemons on both hosts, so that `vfmigrate trace` shows all.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Optional

from vfmigrate import journal
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import COMMAND, Journal
from vfmigrate.migrate.workflow import Migration


class MigrationLog:
    """Logs one migration: its begin on entering the context, its end on leaving it."""

    def __init__(
        self,
        migration: Migration,
        destination: str,
        begins: str,
        trace: Optional[str],
        *,
        log: Optional[Journal] = None,
    ) -> None:
        """`begins` is what to say at its begin; `trace` is its ID."""
        self._migration = migration
        self._begins = begins
        self._log = log or Journal(identifier=COMMAND, aloud=False)
        self._facts: dict[str, Any] = {
            "domain": migration.name,
            "uuid": migration.uuid,
            "destination": destination,
            **({"trace": trace} if trace is not None else {}),
        }

    def __enter__(self) -> None:
        self._log.event("migration-begun", self._begins, **self._facts)

    def __exit__(
        self,
        _kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        report = self._migration.report
        if error is None:
            times = {
                "downtime_ms": report.downtime_ms,
                "standstill_ms": report.standstill_ms,
                "total_ms": report.total_ms,
            }
            measured: dict[str, Any] = {
                key: round(value) for key, value in times.items() if value is not None
            }
            text = "; ".join([f"guest '{self._migration.name}' was migrated", *report.problems])
            level = journal.WARNING if report.problems else journal.INFO
            self._log.event("migration-ended", text, level=level, **self._facts, **measured)
        else:
            # an unexpected exception can quote domain XML
            text = str(error) if isinstance(error, VfmigrateError) else type(error).__name__
            self._log.event("migration-failed", text, level=journal.WARNING, **self._facts)
        self._log.close()
