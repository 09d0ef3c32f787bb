# SPDX-License-Identifier: GPL-2.0-or-later
"""An interactive bash at a terminal, for tests of completion."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.integration.namespaces import Word

# Settings of readline for the tests, and keys that list the completions and print the current line.
_PROMPT = "ready"
_READLINE = r"""
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
bind 'set completion-query-items 0'
bind 'set page-completions off'
bind 'set completion-display-width 0'
bind '"\C-o": possible-completions'
bind -x '"\C-t": printf "\n<line>%s</line>\n" "$READLINE_LINE"'
PS1='{prompt}> '
"""
_PATIENCE_S = 20.0


class Shell:
    """A shell that receives keys."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._heard = ""

    def completed(self, typed: str) -> str:
        """The line after `typed` and the tabulator key."""
        self._type(f"{typed}\t\x14")
        line = self._await(r"<line>(.*)</line>")
        self._type("\x15")
        return line

    def possible(self, typed: str) -> list[str]:
        """The completions of `typed` that the shell lists."""
        self._type(f"{typed}\x0f\x14")
        shown = self._await(r"(?s)\r\n(.*)<line>.*</line>")
        self._type("\x15")
        lines = (line for line in shown.split("\r\n") if not line.startswith(_PROMPT))
        return sorted(word for line in lines for word in line.split())

    def _type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def _await(self, pattern: str) -> str:
        end = time.monotonic() + _PATIENCE_S
        while True:
            found = re.search(pattern, self._heard)
            if found:
                self._heard = self._heard[found.end() :]
                return found.group(1)
            if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the shell shows no {pattern}: {self._heard!r}")
            self._heard += os.read(self._terminal, 65536).decode(errors="replace")

    def begin(self, completion: str) -> None:
        """Set up the shell: readline's settings, and the completion's file."""
        # The terminal echoes what is typed, at any time, so that must not contain the word that is waited for.
        self._type(_READLINE.replace("{prompt}", _PROMPT) + f". {completion}\nclear; echo be''gun\n")
        self._await(r"(begun)\r\n")


@contextmanager
def typing_shell(command: Sequence[Word], env: Mapping[str, str], completion: str) -> Iterator[Shell]:
    """Run `command`, an interactive bash, at a terminal of its own."""
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [os.fspath(word) for word in command],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**env, "TERM": "dumb"},
        start_new_session=True,
    ) as process:
        os.close(end)
        try:
            shell = Shell(terminal)
            shell.begin(completion)
            yield shell
        finally:
            process.kill()
            os.close(terminal)
