# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of `vfmigrate migrate`, and its messages when a check blocks the migration."""

from __future__ import annotations

import pytest

from vfmigrate.cli.main import arguments
from vfmigrate.cli.migrate_verb import _request, check_options, refuse, request_of
from vfmigrate.errors import Refused, UsageError
from vfmigrate.preflight.snapshot import CheckResult
from vfmigrate.rules.findings import ERROR

WORDS = ["migrate", "g", "qemu+ssh://b/system"]


def line(text: str, remedy: str = "") -> CheckResult:
    return CheckResult("destination", "pool", ERROR, text, remedy)


def test_options_of_virsh_migrate_are_accepted() -> None:
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


def test_the_request_of_migrate_has_all_options() -> None:
    words = ["--persistent", "--undefinesource", "--tls", "--copy-storage-inc", "--timeout", "60"]
    options = arguments().parse_args(
        [*WORDS, *words, "--timeout-cancel", "--migrateuri", "tcp://b", "--max-downtime", "7"]
    )
    request = _request(options)
    assert (request.domain, request.destination_uri, request.checked_by) == ("g", WORDS[2], options.socket)
    assert (request.max_downtime_ms, request.timeout, request.cancel_at_timeout) == (7, 60, True)
    chosen = request.options
    assert (chosen.persistent, chosen.undefine_source, chosen.tls) == (True, True, True)
    assert (chosen.copy_storage, chosen.migrate_uri) == ("inc", "tcp://b")


def test_an_unchecked_migration_runs_no_preflight_checks() -> None:
    assert _request(arguments().parse_args([*WORDS, "--unchecked"])).checked_by is None


def test_evacuate_requests_a_migration_with_its_own_options() -> None:
    options = arguments().parse_args(["evacuate", WORDS[2], "--bandwidth", "100", "--parallel"])
    request = request_of(options, "qemu+ssh://c/system", "h")
    assert (request.domain, request.destination_uri, request.checked_by) == ("h", "qemu+ssh://c/system", None)
    assert (request.options.bandwidth, request.options.parallel, request.options.persistent) == (
        100,
        True,
        False,
    )


@pytest.mark.parametrize(
    "words", [["--undefinesource"], ["--parallel-connections", "2"], ["--timeout-cancel"]]
)
def test_an_option_without_the_one_that_it_needs_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{words[0]} needs --"):
        check_options(arguments().parse_args([*WORDS, *words]))


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "٣", "99999999999"])
def test_an_invalid_number_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args([*WORDS, f"--bandwidth={number}"])
    assert "is not a positive integer" in capsys.readouterr().err


def test_a_check_without_errors_does_not_refuse() -> None:
    refuse("g", [])


def test_a_check_with_one_error_refuses_with_its_text() -> None:
    with pytest.raises(Refused, match="guest 'g' cannot migrate: there is no bridge; make one"):
        refuse("g", [line("there is no bridge", "make one")])


def test_a_check_with_several_errors_refuses_with_the_first() -> None:
    with pytest.raises(Refused) as refused:
        refuse("g", [line("there is no bridge", "make one"), line("x"), line("y")])
    assert refused.value.problem == (
        "guest 'g' cannot migrate: there is no bridge (and 2 more; vfmigrate check lists all)"
    )
