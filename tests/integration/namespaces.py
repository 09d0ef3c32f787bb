# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces that live as long as the test run: a network, or a whole host.

A `Namespace` is a process of unshare(1) that a pipe keeps alive: when the test run ends, killed or not, the pipe
closes, the namespace's first process exits, and the kernel removes the processes, links and mounts in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Optional, Union

from tests.testbed.run import CommandError, brief, run

Word = Union[str, "os.PathLike[str]"]

HOST_INIT = Path(__file__).with_name("host_init.py")
# The first process of a namespace that is only a network: prints its pid and waits for the owner's end.
NETWORK_INIT = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


class Namespace:
    """A set of namespaces and the process that keeps them; on exit from its context, everything inside ends."""

    def __init__(self, unshare: Sequence[str], init: Sequence[str], enter: Sequence[str]) -> None:
        self._keeper = subprocess.Popen(
            # A session of its own: Ctrl-C reaches the test run, which ends the namespace in its own order.
            ["unshare", *unshare, "--", *init],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self._keeper.stdout is not None
        told = self._keeper.stdout.readline()
        if not told:
            raise RuntimeError(f"a namespace ended at once, with status {self._keeper.wait()}")
        self.pid = int(told)
        self._enter = ["nsenter", f"--target={self.pid}", *enter]

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in the namespace and wait until it is gone."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(timeout=10)
        self._keeper.stdout.close()

    def command(self, *words: Word) -> list[str]:
        """The command line that runs `words` inside."""
        return [*self._enter, "--", *(os.fspath(word) for word in words)]

    def run(
        self,
        *words: Word,
        check: bool = True,
        stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; raises CommandError on a status other than 0 if `check`."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            text=True,
            env=env,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandError(
                brief([os.fspath(word) for word in words]), done.returncode, done.stdout + done.stderr
            )
        return done

    def spawn(
        self, *words: Word, env: Optional[Mapping[str, str]] = None, log: Optional[Path] = None
    ) -> subprocess.Popen[str]:
        """Start a command inside, in a session of its own; output goes to `log`, or to pipes."""
        if log is None:
            return subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
                start_new_session=True,
            )
        with log.open("a") as sink:
            return subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                text=True,
                env=env,
                start_new_session=True,
            )

    def spawn_around(self, *words: Word, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a command with the namespace's mounts, network and pids, but the machine's own root.

        Its standard input is a pipe, at whose end it should exit; its standard output is a pipe too.
        """
        command = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--net",
            "--pid",
            "--",
            *(os.fspath(word) for word in words),
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
            start_new_session=True,
        )


def signal_child(entered: subprocess.Popen[str], signal: str) -> None:
    """Send a signal to what `Namespace.spawn` started: the child of nsenter."""
    children = Path(f"/proc/{entered.pid}/task/{entered.pid}/children").read_text().split()
    run("kill", f"-{signal}", *children)


def network() -> Namespace:
    """A namespace that is only a network; processes in it keep the machine's files and pids."""
    return Namespace(["--net"], [sys.executable, "-IS", "-c", NETWORK_INIT], ["--net"])


def host(name: str, lower: Path, place: Path) -> Namespace:
    """A host: `lower` under a writable overlay as its root; mount points go into the empty `place`."""
    return Namespace(
        ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"],
        [sys.executable, "-IS", os.fspath(HOST_INIT), name, os.fspath(lower), os.fspath(place)],
        ["--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd"],
    )
