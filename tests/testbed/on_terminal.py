# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a command on its own terminal, keep what it shows, and press Ctrl-C at a given text; runs on a test host.

    on_terminal.py FILE TEXT COMMAND...

What the command shows goes to FILE; when TEXT appears in it (never, if empty), Ctrl-C is pressed once. The exit
status is the command's. The standard library only.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

ROWS, COLUMNS = 24, 80
CTRL_C = b"\x03"


def show(terminal: int, text: bytes) -> bytes:
    """Read all that comes, and press the key at the right moment."""
    shown = b""
    pressed = not text
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the kernel's way to say that the other end was closed
            return shown
        if not part:
            return shown
        shown += part
        if not pressed and text in shown:
            os.write(terminal, CTRL_C)
            pressed = True


def main() -> int:
    """Run it."""
    file, text, *words = sys.argv[1:]
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ["TERM"] = "xterm"
        os.execvp(words[0], words)  # noqa: S606 - there is no shell to be had, nor wanted
    Path(file).write_bytes(show(terminal, text.encode()))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
