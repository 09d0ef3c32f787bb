# SPDX-License-Identifier: GPL-2.0-or-later
"""All subprocesses of the test bed start here: run a command, keep its output, say clearly what failed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Optional, Union

Argument = Union[str, "os.PathLike[str]"]


class CommandError(Exception):
    """A command ended with a status other than 0; carries what it printed."""

    def __init__(self, command: str, status: int, output: str) -> None:
        self.command = command
        self.status = status
        self.output = output
        last = output.strip().splitlines()[-3:]
        super().__init__(f"{command}: exit status {status}: {' / '.join(last) or 'it printed nothing'}")


def run(
    *command: Argument,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    stdin: Union[int, IO[bytes], None] = subprocess.DEVNULL,
    log: Optional[Path] = None,
    timeout: Optional[float] = None,
) -> str:
    """Run a command to its end and return its standard output.

    `env` is added to the environment. With `log`, output goes to that file instead and "" is returned.
    Raises CommandError on a status other than 0 and subprocess.TimeoutExpired after `timeout` seconds.
    """
    words = [os.fspath(word) for word in command]
    surroundings = {**os.environ, **(env or {})}
    if log is not None:
        with log.open("ab") as sink:
            done = subprocess.run(
                words,
                cwd=cwd,
                env=surroundings,
                stdin=stdin,
                stdout=sink,
                stderr=sink,
                timeout=timeout,
                check=False,
            )
        output, errors = "", "" if done.returncode == 0 else log.read_text(errors="replace")
    else:
        done = subprocess.run(
            words, cwd=cwd, env=surroundings, stdin=stdin, capture_output=True, timeout=timeout, check=False
        )
        output = done.stdout.decode(errors="replace")
        errors = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise CommandError(brief(words), done.returncode, output + errors)
    return output


def brief(words: Sequence[str]) -> str:
    """A command line for a message: quoted, and cut where nobody reads on."""
    line = " ".join(shlex.quote(word) for word in words)
    return line if len(line) <= 160 else line[:157] + "..."
