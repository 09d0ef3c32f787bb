# SPDX-License-Identifier: GPL-2.0-or-later
"""Failures in a guest, each in one line."""

from __future__ import annotations


class Fault(Exception):
    """A failure: `problem`, and in `remedy` what the administrator can do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem
