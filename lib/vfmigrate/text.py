# SPDX-License-Identifier: GPL-2.0-or-later
"""All text for people goes through here: what is printed, logged, or to be pasted into a shell.

Names come from domain XML, libvirt networks, host names, paths and other hosts. A name can have escape sequences that
rewrite a terminal, characters that reverse or hide text, and `$(...)`. So:

- `printable` escapes every character that is not a visible one or a blank. Errors and log entries apply it themselves,
  and `say` is the only function that prints;
- `quoted` and `command` quote names in commands. A test refuses a command that is built without them.

JSON is exact: its own escapes hold such characters (`say_json`).
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any, Optional, TextIO

_SHELL_ESCAPES = {"\\": "\\\\", "'": "\\'"}


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def printable(text: str) -> str:
    r"""The text with all but visible characters and blanks escaped, as `\x1b` or `\u202e`.

    Python calls those printable that Unicode does not class as other (control, format such as bidirectional and
    zero-width characters, private use, surrogate, unassigned) or separator, except the blank (str.isprintable).
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def quoted(word: object) -> str:
    """A word of a command that is to be pasted: quoted where a shell needs it.

    Characters that are not printable are escaped in a way that bash and ksh read as the same word (`$'...'`).
    """
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(_SHELL_ESCAPES.get(each, _shell_escaped(each)) for each in text)}'"


def _shell_escaped(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 0x80 else _wide(ord(character))


def _wide(number: int) -> str:
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def command(*words: object) -> str:
    """A command that is to be pasted, of these words."""
    return " ".join(map(quoted, words))


def say(text: str, *, file: Optional[TextIO] = None) -> None:
    """Print a line, or several, on standard output unless another file is given."""
    lines = "\n".join(map(printable, text.split("\n")))
    print(lines, file=file or sys.stdout, flush=file is not None)


def clear_terminal() -> None:
    """Clear the terminal that standard output is, if it is one (ECMA-48: cursor home, erase the page)."""
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="", flush=True)


def complain(program: str, text: object) -> None:
    """Print an error or a warning of a program, as one line on standard error."""
    say(f"{program}: {' '.join(str(text).split())}", file=sys.stderr)


def say_json(value: Any, *, indent: Optional[int] = 2, file: Optional[TextIO] = None) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=indent), file=file or sys.stdout, flush=file is not None)
