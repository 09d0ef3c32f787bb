# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate status`: what --pool, --guest and --wide select, and what counts as a problem."""

from __future__ import annotations

from typing import Any

import pytest

from vfmigrate.cli import main, tables
from vfmigrate.cli.status_verb import problems, selected
from vfmigrate.errors import UsageError

UUID = "22222222-2222-4222-8222-222222222222"


def vf(number: int, **changes: Any) -> dict[str, Any]:
    fine = {
        "address": f"0000:01:00.{number}",
        "state": "free",
        "driver": "mlx5_vfio_pci",
        "migratable": True,
        "msix": 16,
        "representor": f"enp1s0f0npf0vf{number}",
        "tag": None,
        "guest": None,
        "holder": None,
        "claim": None,
        "problems": [],
    }
    return {**fine, **changes}


def pool(name: str, *vfs: dict[str, Any]) -> dict[str, Any]:
    pf = {"address": "0000:01:00.0", "mode": "switchdev", "offload": "on", "problems": [], "vfs": list(vfs)}
    return {"name": name, "bridge": "br", "network": None, "problems": [], "pfs": [pf]}


CLAIM = {
    "id": "c1",
    "vf": "0000:01:00.3",
    "domain": UUID,
    "domain_name": "g",
    "pool": "data",
    "mac": "52:54:00:00:00:02",
    "strategy": "failover",
}
STATUS: dict[str, Any] = {
    "schema": 1,
    "problems": [],
    "pools": [
        pool("data", vf(2), vf(3, guest="g", claim="c1", state="plugged")),
        pool("storage", vf(4)),
    ],
    "claims": [CLAIM],
}


def addresses(answer: Any) -> list[str]:
    return [vf["address"] for pool in answer["pools"] for pf in pool["pfs"] for vf in pf["vfs"]]


def test_one_pool_is_selected_with_its_claims() -> None:
    assert addresses(selected(STATUS, pool="data")) == ["0000:01:00.2", "0000:01:00.3"]
    assert selected(STATUS, pool="storage")["claims"] == []
    with pytest.raises(UsageError, match="this host has no pool 'lan'; its pools: data, storage"):
        selected(STATUS, pool="lan")


@pytest.mark.parametrize("guest", ["g", UUID])
def test_one_guest_is_selected_by_name_and_by_uuid(guest: str) -> None:
    found = selected(STATUS, guest=guest)
    assert addresses(found) == ["0000:01:00.3"]
    assert [each["name"] for each in found["pools"]] == ["data"]
    assert selected(STATUS, guest="another")["pools"] == []


def test_nothing_is_left_out_without_a_selection() -> None:
    assert selected(STATUS) == STATUS


def test_wide_shows_mac_strategy_and_msix() -> None:
    narrow, wide = ("\n".join(tables.status(STATUS, None, wide=wide)) for wide in (False, True))
    assert "52:54:00:00:00:02" not in narrow
    head, free, taken = wide.splitlines()[2:5]
    assert head.split()[-4:] == ["MAC", "STRATEGY", "MSIX", "GUEST"]
    assert free.split()[-4:] == ["-", "-", "16", "-"]
    assert taken.split()[-4:] == ["52:54:00:00:00:02", "failover", "16", "g"]


def test_problems_of_every_part_count() -> None:
    assert list(problems(STATUS)) == []
    answer = {**STATUS, "problems": ["host"], "pools": [pool("data", vf(2, problems=["vf"]))]}
    answer["pools"][0]["problems"] = ["pool"]
    answer["pools"][0]["pfs"][0]["problems"] = ["pf"]
    assert list(problems(answer)) == ["host", "pool", "pf", "vf"]


def test_connect_can_be_before_the_verb() -> None:
    assert main.parsed(["-c", "qemu:///x", "list"]).connect == "qemu:///x"
    assert main.parsed(["-c", "qemu:///x", "failover", "show", "g"]).connect == "qemu:///x"
    assert main.parsed(["-c", "qemu:///x", "list", "-c", "qemu:///y"]).connect == "qemu:///y"
    assert main.parsed(["list"]).connect is None


def test_connect_before_a_verb_without_it_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parsed(["-c", "qemu:///x", "status"])
    assert ended.value.code == 2
    assert "status takes no option -c" in capsys.readouterr().err


def test_help_of_a_verb_can_be_asked_for_as_in_virsh(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["help", "failover", "enable"], ["help"]):
        with pytest.raises(SystemExit) as ended:
            main.parsed(words)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(" ".join(["usage: vfmigrate", *words[1:]]))
