# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables and lists: they fit 80 and 120 columns, cut no name, and are one line a row when piped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import pytest

from vfmigrate.cli import tables
from vfmigrate.cli.tables import Width

GUEST = "a-guest-whose-name-has-as-many-characters-as-an-administrator-can-bear"
LONG = (
    "0000:01:00.3: its port is not plugged into bridge br-data; run: vfmigrate reconcile, and see the journal"
)
WIDTHS: tuple[Width, ...] = (80, 120, None)

VF: dict[str, Any] = {
    "address": "0000:01:00.2",
    "state": "free",
    "driver": "mlx5_vfio_pci",
    "migratable": True,
    "representor": "enp1s0f0npf0vf0",
    "tag": None,
    "guest": None,
    "holder": None,
    "problems": [],
}
STATUS = {
    "pools": [
        {
            "name": "data",
            "bridge": "br-data",
            "network": "vfmigrate-data",
            "problems": [],
            "pfs": [
                {
                    "address": "0000:01:00.0",
                    "mode": "switchdev",
                    "psid": "MT_1",
                    "firmware": "28.42.1000",
                    "offload": "on",
                    "problems": [LONG],
                    "vfs": [VF, {**VF, "state": "reserved", "guest": GUEST, "tag": 4094}],
                }
            ],
        }
    ]
}
PROVISION = {
    "dry_run": True,
    "pools": [
        {
            "pool": "data",
            "changes": ["create bridge br-data"],
            "findings": [{"severity": "warning", "text": LONG, "remedy": "restart it"}],
            "error": None,
        }
    ],
}
CHECK = {
    "guest": GUEST,
    "source": "host-a",
    "destination": "host-b",
    "checks": [
        {"side": "destination", "severity": "error", "text": LONG, "remedy": "see", "detail": "<cpu/>"},
        {"side": "pair", "severity": "ok", "text": "fine", "remedy": "", "detail": ""},
    ],
}
LISTED = [
    {
        "name": GUEST,
        "state": "running",
        "can_leave": False,
        "problems": [{"severity": "error", "text": LONG, "remedy": "restart it"}],
        "vfs": [
            {"strategy": "vfio", "pool": "data", "vlan": 42, "pf": "0000:01:00.0"},
            {"strategy": "failover", "pool": "storage", "vlan": None, "pf": "0000:41:00.0"},
        ],
    }
]
WHERE = {
    "guest": GUEST,
    "hosts": [
        {"uri": "qemu+ssh://b/system", "name": "b", "can_take": True, "problems": [], "error": None},
        {
            "uri": "qemu+ssh://c/system",
            "name": "c",
            "can_take": False,
            "problems": [{"severity": "error", "text": LONG, "remedy": "restart it"}] * 3,
            "error": None,
        },
        {
            "uri": "qemu+ssh://a-host-that-does-not-answer/system",
            "name": None,
            "can_take": None,
            "problems": [],
            "error": {"kind": "unreachable", "problem": LONG, "remedy": ""},
        },
    ],
    "cards": [
        {"host": "a", "pool": "data", "pf": "0000:01:00.0", "psid": "MT_1", "firmware": "28.4", "free": 3},
        {"host": "c", "pool": "data", "pf": "0000:01:00.0", "psid": None, "firmware": None, "free": None},
    ],
}
PAIRS = [
    {
        "mac": "52:54:00:00:00:01",
        "standby": True,
        "kind": "network",
        "source": "a-network-with-a-long-name",
        "vlan": 42,
        "alias": "ua-standby-525400000001",
        "problem": LONG,
    },
    {
        "mac": "52:54:00:00:00:02",
        "standby": False,
        "kind": None,
        "source": None,
        "vlan": None,
        "alias": "ua-2",
        "problem": None,
    },
]
PROFILE = {
    "id": "0000000a-000a-000a-000a-000000000398",
    "network": "a-logical-network",
    "name": "a-profile",
    "pass_through": True,
    "migratable": False,
    "failover": "other",
    "properties": {"vfmigrate_pool": "data", "vfmigrate_strategy": "vfio", "vfmigrate_vlan": "42"},
}
NAMES = {str(PROFILE["id"]): "a-logical-network/a-profile", "other": "a-logical-network/standby"}
RESULTS = [
    ("GUEST", "VFS", "RESULT", "HOST", "SECONDS", "DOWNTIME", ""),
    (GUEST, "2 data", "moved", "host-b.example.com", "12.3", "41 ms", ""),
    ("g2", "-", "failed", "-", "-", "-", LONG),
]

RENDERED: dict[str, tuple[Callable[[Width], Iterator[str]], str]] = {
    "status": (lambda width: tables.status(STATUS, width), GUEST),
    "provision": (lambda width: tables.provision(PROVISION, width), "data"),
    "check": (lambda width: tables.check(CHECK, width), GUEST),
    "list": (lambda width: tables.guests(LISTED, width), GUEST),
    "where": (lambda width: tables.where(WHERE, width), "qemu+ssh://c/system"),
    "failover show": (lambda width: tables.failover_pairs(PAIRS, width), "a-network-with-a-long-name"),
    "ovirt": (lambda width: tables.vnic_profiles([PROFILE], NAMES, width), NAMES["other"]),
    "evacuate": (lambda width: tables.table(RESULTS, width), GUEST),
}


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_fits_and_cuts_no_name(name: str, width: Width) -> None:
    render, kept = RENDERED[name]
    lines = list(render(width))
    assert width is None or max(map(len, lines)) <= width
    assert any(kept in line for line in lines)
    assert "…" not in "".join(lines)
    words = " ".join(lines).split()
    assert sorted(words) == sorted(" ".join(render(None)).split())


def test_a_check_shows_problems_and_the_verdict_and_everything_when_verbose() -> None:
    short, everything = (list(tables.check(CHECK, None, verbose=verbose)) for verbose in (False, True))
    assert [line for line in everything if line not in short] == ["both hosts:", "  ok       fine"]
    assert short[-1] == f"guest '{GUEST}' cannot migrate to host-b: 1 error, 0 warnings, 1 ok"


def test_where_says_yes_no_or_unknown_and_how_to_see_the_rest() -> None:
    _, b, c, d, _, _, *cards = tables.where(WHERE, None)
    assert b.split() == ["b", "yes"]
    assert c.startswith("c ")
    assert f"no: {LONG}; restart it (2 more: vfmigrate check {GUEST} qemu+ssh://c/system)" in c
    assert d == f"qemu+ssh://a-host-that-does-not-answer/system  unknown: {LONG}"
    assert [card.split()[-3:] for card in cards] == [["MT_1", "28.4", "3"], ["-", "-", "-"]]


def test_a_table_widens_with_the_terminal() -> None:
    narrow, wide = (len(list(tables.table(RESULTS, width))) for width in (80, 170))
    assert narrow > wide > len(list(tables.table(RESULTS, None))) - 1


def test_each_row_is_one_line_when_piped() -> None:
    assert len(list(tables.table(RESULTS, None))) == len(RESULTS)


def test_columns_that_do_not_fit_go_below_their_row() -> None:
    rows = [("GUEST", "VF", "WHY"), ("g" * 20, "v" * 20, "one two"), ("h", "w", "three")]
    assert list(tables.table(rows, 30)) == [
        "GUEST",
        f"    {'VF':20}  WHY",
        "g" * 20,
        f"    {'v' * 20}",
        "    one two",
        "h",
        "    w",
        "    three",
    ]


def test_long_text_is_wrapped_with_an_indent() -> None:
    assert list(tables.table([("A", "TEXT"), ("1", "several words that do not fit into one line")], 32)) == [
        "A  TEXT",
        "1  several words that do not fit",
        "   into one line",
    ]


def test_tables_have_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "133")
    assert tables.width() == 133
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert tables.width() is None
