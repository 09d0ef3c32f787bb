# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C read as a key instead of a signal, while a migration runs that must be ended in order.

A terminal sends SIGINT to every process in the foreground, also to the ssh of a qemu+ssh connection, and without that
connection the migration cannot be cancelled cleanly. Without a terminal, signals reach this process only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

#: Ctrl-C and Ctrl-\
_ENDING = (b"\x03", b"\x1c")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 0.2


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C or a signal, which have no other effect. Only for the main thread."""
    wanted = threading.Event()

    def end(_number: int, _frame: Optional[FrameType]) -> None:
        wanted.set()

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        with _keys(wanted):
            yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keys(wanted: threading.Event) -> Iterator[None]:
    """Read keys in the background, if standard input is our terminal."""
    terminal = _terminal()
    if terminal is None:
        yield
        return
    done = threading.Event()
    before = termios.tcgetattr(terminal)
    termios.tcsetattr(terminal, termios.TCSADRAIN, _raw(before))
    reader = threading.Thread(target=_read, args=(terminal, wanted, done), name="keyboard", daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _terminal() -> Optional[int]:
    """Standard input, if it is a terminal and this process is in its foreground."""
    try:
        descriptor = sys.stdin.fileno()
        foreground = os.tcgetpgrp(descriptor) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return None
    return descriptor if foreground else None


def _raw(settings: list[Any]) -> list[Any]:
    """A terminal's settings without line buffering, echo and signals."""
    changed = list(settings)
    changed[3] &= ~(termios.ISIG | termios.ICANON | termios.ECHO)
    return changed


def _read(terminal: int, wanted: threading.Event, done: threading.Event) -> None:
    while not done.is_set():
        if select.select([terminal], [], [], _LOOK_SECONDS)[0]:
            key = os.read(terminal, 1)
            if not key:
                return  # the terminal is gone; SIGHUP follows
            if key in _ENDING:
                wanted.set()
