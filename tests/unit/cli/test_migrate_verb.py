# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of `vfmigrate migrate`, and what is said when something stands against it."""

from __future__ import annotations

import pytest

from vfmigrate.cli.main import arguments
from vfmigrate.cli.migrate_verb import check_options, refuse
from vfmigrate.errors import Refused, UsageError
from vfmigrate.preflight.snapshot import CheckResult
from vfmigrate.rules.findings import ERROR

WORDS = ["migrate", "g", "qemu+ssh://b/system"]


def line(text: str, remedy: str = "") -> CheckResult:
    return CheckResult("destination", "pool", ERROR, text, remedy)


def test_options_of_virsh_migrate() -> None:
    virsh = [
        "--live",
        "--persistent",
        "--undefinesource",
        "--copy-storage-all",
        "--parallel",
        "--tls",
        "--p2p",
    ]
    numbers = ["--parallel-connections", "4", "--bandwidth", "100", "--timeout", "60"]
    options = arguments().parse_args([*WORDS, *virsh, *numbers])
    check_options(options)
    assert (options.copy_storage, options.parallel_connections, options.bandwidth) == ("all", 4, 100)
    assert (options.max_downtime, options.unchecked) == (1000, False)


@pytest.mark.parametrize(
    "words", [["--undefinesource"], ["--parallel-connections", "2"], ["--timeout-cancel"]]
)
def test_options_that_need_another_option(words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{words[0]} needs --"):
        check_options(arguments().parse_args([*WORDS, *words]))


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "٣", "99999999999"])
def test_invalid_numbers(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args([*WORDS, f"--bandwidth={number}"])
    assert "is not a positive integer" in capsys.readouterr().err


def test_no_error_does_not_refuse() -> None:
    refuse("g", [])


def test_one_error_refuses() -> None:
    with pytest.raises(Refused, match="guest 'g' cannot migrate: there is no bridge; make one"):
        refuse("g", [line("there is no bridge", "make one")])


def test_several_errors_refuse_with_the_first() -> None:
    with pytest.raises(Refused) as refused:
        refuse("g", [line("there is no bridge", "make one"), line("x"), line("y")])
    assert refused.value.problem == (
        "guest 'g' cannot migrate: there is no bridge (and 2 more; vfmigrate check lists all)"
    )
