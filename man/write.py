# SPDX-License-Identifier: GPL-2.0-or-later
r"""Write manual pages, completion, catalogue and docs/journal.md: prose from *.in, facts from the code.

A line `.\" @OPTIONS@` or the like in a template is replaced by what the argument parsers, the configuration's
dataclasses and the error kinds say. The results are kept in the repository beside the templates, so that a packager
needs none of the product's libraries; `--check` says whether they still match the code.

    PYTHONPATH=lib python3 man/write.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable

from vfmigrate import errors
from vfmigrate.cli import main as cli
from vfmigrate.config import setting
from vfmigrate.config.configuration import Config
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.config.pool import Pool
from vfmigrate.daemon import options as daemon_options
from vfmigrate.events import table
from vfmigrate.events.kind import EventKind
from vfmigrate.version import VERSION
from vfmigrate_guest import cli as guest

HERE = Path(__file__).parent
COMPLETION = HERE.parent / "completion"
CATALOG = HERE.parent / "catalog" / "vfmigrate.catalog.in"
JOURNAL = HERE.parent / "docs" / "journal.md"
#: the programs, by the names of their completion's templates
PROGRAMS: Mapping[str, Callable[[], argparse.ArgumentParser]] = {
    "vfmigrate": cli.arguments,
    "vfmigrated": daemon_options.arguments,
    "vfmigrate-guest": guest.arguments,
}


def escape(text: str) -> str:
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments that a parser shows, without its sub-commands."""
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
        shown = "" if action.nargs == 0 else f" {value(action)}"
        names = ", ".join(f"\\fB{escape(name)}\\fR{shown}" for name in action.option_strings)
        lines.append(f".TP\n{names or shown.strip()}\n{escape(told(parser, action))}\n")
    return "".join(lines)


def value(action: argparse.Action) -> str:
    """What an action takes: each of its choices in bold, or its metavar in italics."""
    if action.choices is not None:
        return "{" + "|".join(f"\\fB{escape(str(choice))}\\fR" for choice in action.choices) + "}"
    return f"\\fI{escape(metavar(action))}\\fR"


def metavar(action: argparse.Action) -> str:
    """The name of an action's value, as --help shows it."""
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


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
        lines.append(f"{escape(one.explanation)}\n")
    return "".join(lines)


def written(value: object) -> str:
    """A default as one would write it in the file."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def exit_status(meanings: Mapping[int, str]) -> str:
    """A list of the exit statuses of a program."""
    return "".join(f".TP\n.B {code}\n{escape(meanings[code])}\n" for code in sorted(meanings))


def failures(kinds: Iterable[type[errors.VfmigrateError]]) -> dict[int, str]:
    """The exit status of each kind of error, and what it means."""
    meanings = {kind.exit_code: (kind.__doc__ or "").split("\n")[0] for kind in kinds}
    meanings[errors.VfmigrateError.exit_code] = "Internal error of vfmigrate; please report it."
    return meanings


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
    return metavar(action)


def variables(program: str) -> str:
    """What the names of a program's functions and variables in bash begin with, after a "_"."""
    return program.replace("-", "_")


def tables(program: str) -> str:
    """Tables of a program's verbs, options, arguments and kinds of values, as bash declares them."""
    table: dict[str, dict[str, str]] = {"verbs": {}, "options": {}, "arguments": {}, "values": {}}
    for each in parsers(PROGRAMS[program]()):
        path = " ".join(word for word in each.prog.split() if variables(word).isidentifier())
        found = list(actions(each))
        named = [action for action in found if action.option_strings]
        table["options"][path] = " ".join(name for action in named for name in action.option_strings)
        for action in named:
            if action.nargs != 0:
                table["values"].update({f"{path} {name}": kind(action) for name in action.option_strings})
        kinds = [
            kind(action) + ("..." if action.nargs in ("*", "+") else "")
            for action in found
            if not action.option_strings
        ]
        if kinds:
            table["arguments"][path] = " ".join(kinds)
        for action in each._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                table["verbs"][path] = " ".join(action.choices)
    lines = [TABLES]
    for name, rows in table.items():
        lines.append(f"declare -gA _{variables(program)}_{name}=(\n")
        lines += [f'    ["{key}"]="{words}"\n' for key, words in rows.items()]
        lines.append(")\n")
    return "".join(lines)


TABLES = """\
# The key is the program's name and the verbs so far. verbs: those that may follow; options; arguments: the kinds of
# positional arguments, of which the last may be repeated if it ends in "..."; values: for key and option, the kind of
# value that the option takes, or its choices after "=".
"""


def completion_template(program: str) -> Path:
    """The template of a program's completion."""
    return COMPLETION / f"{program}.in"


def completion(template: Path) -> str:
    """A program's completion from its template."""
    program, text = template.stem, template.read_text(encoding="utf-8")
    engine = (COMPLETION / "engine.in").read_text(encoding="utf-8")
    engine = engine.replace("@NAME@", variables(program)).replace("@PROGRAM@", program)
    return text.replace("# @TABLES@\n", tables(program)).replace("# @ENGINE@\n", engine)


def page(template: Path) -> str:
    """A page from its template."""
    blocks = {
        "CLI-SYNOPSIS": synopsis(cli.arguments()),
        "CLI-OPTIONS": options(cli.arguments()),
        "CLI-VERBS": verbs(cli.arguments()),
        "CLI-EXIT-STATUS": exit_status({0: "Success.", **failures(cli.FAILURES)}),
        "DAEMON-SYNOPSIS": synopsis(daemon_options.arguments()),
        "DAEMON-OPTIONS": options(daemon_options.arguments()),
        "DAEMON-EXIT-STATUS": exit_status(daemon_options.EXIT_STATUS),
        "POOL-KEYS": keys(Pool),
        "DAEMON-KEYS": keys(Config),
        "LIBVIRT-KEYS": keys(LibvirtAccess),
        "GUEST-SYNOPSIS": synopsis(guest.arguments()),
        "GUEST-OPTIONS": options(guest.arguments()),
        "GUEST-VERBS": verbs(guest.arguments()),
        "GUEST-EXIT-STATUS": exit_status(guest.EXIT_STATUS),
    }
    text = template.read_text(encoding="utf-8").replace("@VERSION@", VERSION)
    for name, block in blocks.items():
        text = text.replace(f'.\\" @{name}@\n', block)
    return text


def catalog_entry(kind: EventKind) -> str:
    """A kind of event as the journal's catalogue has it (https://systemd.io/CATALOG/)."""
    fields = "\n".join(f"{name}: @VFMIGRATE_{name.upper()}@" for name in kind.fields)
    texts = [*textwrap.wrap(kind.text, 78), "", *textwrap.wrap(kind.remedy, 78), "", fields]
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(texts)).strip()
    head = f"-- {kind.message_id}\nSubject: {kind.subject}\nDefined-By: vfmigrate\nDocumentation: man:vfmigrated(8)\n"
    return f"{head}\n{body}\n"


def catalog(template: Path) -> str:
    """The journal's catalogue."""
    text = template.read_text(encoding="utf-8")
    return text.replace("# @KINDS@\n", "\n".join(map(catalog_entry, table.KINDS)))


def kinds() -> str:
    """The kinds of events as rows of a table in Markdown."""
    rows = ["| event | MESSAGE_ID | what happened | what to do | fields |", "|---|---|---|---|---|"]
    for kind in sorted(table.KINDS, key=lambda each: each.name):
        fields = ", ".join(f"`{name}`" for name in kind.fields)
        row = (f"`{kind.name}`", f"`{kind.message_id}`", f"{kind.subject}. {kind.text}", kind.remedy, fields)
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return "\n".join(rows) + "\n"


BEGIN, END = "<!-- written by man/write.py: begin -->\n", "<!-- written by man/write.py: end -->\n"


def journal_page() -> str:
    """The page about the log, with the table of the kinds of events as the code has it."""
    head, rest = JOURNAL.read_text(encoding="utf-8").split(BEGIN)
    return head + BEGIN + kinds() + END + rest.split(END)[1]


def main(argv: Sequence[str]) -> int:
    """Write what is out of date, or with --check only list it."""
    stale = []
    made = {source.with_suffix(""): page(source) for source in HERE.glob("*.in")}
    made.update({source.with_suffix(""): completion(source) for source in map(completion_template, PROGRAMS)})
    made[CATALOG.with_suffix("")] = catalog(CATALOG)
    made[JOURNAL] = journal_page()
    for target, text in sorted(made.items()):
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
