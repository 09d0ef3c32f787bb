# SPDX-License-Identifier: GPL-2.0-or-later
r"""Write the manual pages and the shell's completion: prose from *.in, facts from the code that obeys them.

A line `.\" @OPTIONS@` and its like in a template is replaced by what the argument parsers, the configuration's
dataclasses and the error kinds say. What is written is kept in the repository beside the templates, so that a packager
needs none of the product's libraries; `--check` tells whether it is still what the code says.

    PYTHONPATH=lib python3 man/write.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vfmigrate import errors
from vfmigrate.cli import main as cli
from vfmigrate.config import setting
from vfmigrate.config.configuration import Config, Pool
from vfmigrate.daemon import options as daemon_options
from vfmigrate.version import VERSION
from vfmigrate_guest import cli as guest

HERE = Path(__file__).parent
COMPLETION = HERE.parent / "completion"


def escape(text: str) -> str:
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What a parser takes and tells of, sub-commands apart."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list of them
        hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        if not hidden:
            yield action


def synopsis(parser: argparse.ArgumentParser) -> str:
    """The usage line, with the program's name in bold."""
    usage = " ".join(parser.format_usage().split()[1:])
    rest = usage[len(parser.prog) :].strip()
    return f".B {escape(parser.prog)}\n{escape(rest)}\n"


def told(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """An action's help, with its defaults filled in as --help fills them in."""
    formatter = parser.formatter_class(prog=parser.prog)
    return formatter._expand_help(action)  # noqa: SLF001 - what --help itself calls


def options(parser: argparse.ArgumentParser) -> str:
    """A list of a parser's options and arguments."""
    lines = []
    for action in actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest
        value = "" if action.nargs == 0 else f" \\fI{escape(metavar)}\\fR"
        names = ", ".join(f"\\fB{escape(name)}\\fR{value}" for name in action.option_strings)
        lines.append(f".TP\n{names or value.strip()}\n{escape(told(parser, action))}\n")
    return "".join(lines)


def sentence(text: str) -> str:
    """A help text as a sentence."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def verbs(parser: argparse.ArgumentParser) -> str:
    """A section for each sub-command with its synopsis and options."""
    lines = []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, verb in action.choices.items():
                words = verb.prog.split()[1:] or [name]
                lines.append(f".SS {escape(' '.join(words))}\n{synopsis(verb)}.PP\n")
                lines.append(f"{escape(sentence(verb.description or ''))}\n{options(verb)}")
                lines.append(examples(verb))
                lines.append(verbs(verb))
    return "".join(lines)


def examples(verb: argparse.ArgumentParser) -> str:
    """A verb's examples."""
    lines = (verb.epilog or "").splitlines()[1:]
    if not lines:
        return ""
    return "".join([".PP\nExamples:\n.PP\n.nf\n", *(f"{escape(line)}\n" for line in lines), ".fi\n"])


def keys(section: type) -> str:
    """A list of the keys of a section of the configuration."""
    lines = []
    for field, one in setting.settings(section):
        default = f"default: {one.otherwise or written(field.default)}"
        note = escape("required" if setting.is_required(field) else default)
        lines.append(f".TP\n\\fB{escape(one.key)}\\fR = \\fI{escape(one.form.name)}\\fR ({note})\n")
        lines.append(f"{escape(one.told)}\n")
    return "".join(lines)


def written(value: object) -> str:
    """A default as one would write it in the file."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def exit_codes() -> str:
    """What each exit status means."""
    lines = [".TP\n.B 0\nIt went well.\n"]
    for kind in sorted(errors.KINDS.values(), key=lambda kind: kind.exit_code):
        meaning = (kind.__doc__ or "").split("\n")[0]
        if kind is errors.VfmigrateError:
            meaning = "A fault of vfmigrate's own; please report it."
        lines.append(f".TP\n.B {kind.exit_code}\n{escape(meaning)}\n")
    return "".join(lines)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its sub-commands, theirs included."""
    yield parser
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for verb in action.choices.values():
                yield from parsers(verb)


def kind(action: argparse.Action) -> str:
    """What kind of value an action takes, as the completion names it: its choices, or its name in the usage."""
    if action.choices is not None:
        return "=" + " ".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def completion(parser: argparse.ArgumentParser) -> str:
    """Tables of verbs, options, arguments and kinds of values, as bash declares them."""
    tables: dict[str, dict[str, str]] = {"verbs": {}, "options": {}, "arguments": {}, "values": {}}
    for each in parsers(parser):
        path = " ".join(word for word in each.prog.split() if word.isidentifier())
        found = list(actions(each))
        named = [action for action in found if action.option_strings]
        tables["options"][path] = " ".join(name for action in named for name in action.option_strings)
        for action in named:
            if action.nargs != 0:
                tables["values"].update({f"{path} {name}": kind(action) for name in action.option_strings})
        kinds = [
            kind(action) + ("..." if action.nargs in ("*", "+") else "")
            for action in found
            if not action.option_strings
        ]
        if kinds:
            tables["arguments"][path] = " ".join(kinds)
        for action in each._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                tables["verbs"][path] = " ".join(action.choices)
    lines = []
    for name, table in tables.items():
        lines.append(f"declare -gA _vfmigrate_{name}=(\n")
        lines += [f'    ["{key}"]="{words}"\n' for key, words in table.items()]
        lines.append(")\n")
    return "".join(lines)


def page(template: str) -> str:
    """A page from its template."""
    blocks = {
        "CLI-SYNOPSIS": synopsis(cli.arguments()),
        "CLI-OPTIONS": options(cli.arguments()),
        "CLI-VERBS": verbs(cli.arguments()),
        "DAEMON-SYNOPSIS": synopsis(daemon_options.arguments()),
        "DAEMON-OPTIONS": options(daemon_options.arguments()),
        "POOL-KEYS": keys(Pool),
        "DAEMON-KEYS": keys(Config),
        "GUEST-SYNOPSIS": synopsis(guest.arguments()),
        "GUEST-OPTIONS": options(guest.arguments()),
        "GUEST-VERBS": verbs(guest.arguments()),
        "EXIT-CODES": exit_codes(),
    }
    text = template.replace("@VERSION@", VERSION)
    for name, block in blocks.items():
        text = text.replace(f'.\\" @{name}@\n', block)
    return text.replace("# @COMPLETION@\n", completion(cli.arguments()))


def main(argv: Sequence[str]) -> int:
    """Write what is out of date, or with --check say what that is."""
    stale = []
    for source in sorted([*HERE.glob("*.in"), *COMPLETION.glob("*.in")]):
        target, text = source.with_suffix(""), page(source.read_text(encoding="utf-8"))
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(target.name)
        if argv != ["--check"]:
            target.write_text(text, encoding="utf-8")
    if stale:
        print(f"{' '.join(stale)}: " + ("not what the code says; run: make man" if argv else "written"))
    return 1 if stale and argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
