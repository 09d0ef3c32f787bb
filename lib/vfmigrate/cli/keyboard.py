# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C as a key that is read, and not as a signal, while something must not be torn apart by it.

A terminal sends the signal to every process in the foreground: also to the ssh that a qemu+ssh connection goes
through, and with it would go the means to end a migration cleanly. Where there is no terminal, signals are what they
are, and go to this process alone.
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
    """Give an event that is set when the user wants an end, by key or by signal; nothing else happens then.

    Only for the main thread.
    """
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
    """Read keys meanwhile, if there is a keyboard and it is ours."""
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
    """Standard input when it is a terminal that this process may read from."""
    try:
        descriptor = sys.stdin.fileno()
        foreground = os.tcgetpgrp(descriptor) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return None
    return descriptor if foreground else None


def _raw(settings: list[Any]) -> list[Any]:
    """A terminal's settings with keys handed on at once, unseen, and without signals."""
    changed = list(settings)
    changed[3] &= ~(termios.ISIG | termios.ICANON | termios.ECHO)
    return changed


def _read(terminal: int, wanted: threading.Event, done: threading.Event) -> None:
    while not done.is_set():
        if select.select([terminal], [], [], _LOOK_SECONDS)[0]:
            key = os.read(terminal, 1)
            if not key:
                return  # the terminal is gone; SIGHUP tells
            if key in _ENDING:
                wanted.set()
