# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vfmigrate` prints, and its exit status, for what a daemon answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vfmigrate.cli import main
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.rpc import protocol
from vfmigrate.rpc.server import Server, listening_socket

NETWORKS = Unreachable("libvirt's networks cannot be asked", "see systemctl status virtnetworkd")
CLAIM = HostError("host-a: cannot write the claim", "make room on its file system")


@contextmanager
def daemon(path: Path, answer: dict[str, Any]) -> Iterator[list[str]]:
    """A daemon that answers every request like this; the words with which the command reaches it."""
    server = Server(listening_socket(path), lambda _request, _uid: answer)
    server.start()
    try:
        yield ["--socket", str(path)]
    finally:
        server.stop()


def reconciled(*changes: str, problems: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {"changes": changes, "problems": [protocol.plain(each) for each in problems]}


@pytest.mark.parametrize(
    ("answer", "status", "out", "err"),
    [
        (reconciled(), 0, "nothing to do\n", ""),
        ({"changes": ["reset x"]}, 0, "reset x\n", ""),  # of an older daemon
        (
            reconciled(problems=(NETWORKS, CLAIM)),
            Unreachable.exit_code,
            "nothing was changed\n",
            f"vfmigrate: {NETWORKS}\nvfmigrate: {CLAIM}\n",
        ),
        (reconciled("reset x", problems=(CLAIM,)), HostError.exit_code, "reset x\n", f"vfmigrate: {CLAIM}\n"),
    ],
)
def test_reconcile_says_what_could_not_be_looked_at(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: dict[str, Any],
    status: int,
    out: str,
    err: str,
) -> None:
    with daemon(tmp_path / "socket", answer) as options:
        assert main.main([*options, "reconcile"]) == status
    assert capsys.readouterr() == (out, err)


def test_reconcile_in_json_has_the_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "socket", reconciled(problems=(NETWORKS,))) as options:
        assert main.main([*options, "reconcile", "--json"]) == Unreachable.exit_code
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"schema": 1, **reconciled(problems=(NETWORKS,)), "changes": []}
