# SPDX-License-Identifier: GPL-2.0-or-later
"""Each finding about a ConnectX or BlueField card once, with what it says and its remedy."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, cast

import pytest

from vfmigrate.cards.mlx5 import FIRMWARE_MIN, VENDOR, Mlx5
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.vendor import CardState
from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.findings import ERROR, WARNING

PF = PciAddress(0, 0xE1, 0, 0)
GOOD = CardState(PF, psid="MT_0000000892", firmware="28.42.1000", stored_firmware="28.42.1000")


class Tool:
    """A tool that reads one value of VF_MIGRATION_MODE, or fails."""

    def __init__(self, mode: Optional[int], error: Optional[HostError] = None) -> None:
        self._mode = mode
        self._error = error

    def vf_migration_mode(self, _pf: PciAddress) -> Optional[int]:
        if self._error is not None:
            raise self._error
        return self._mode


def with_tool(mode: Optional[int] = None, error: Optional[HostError] = None) -> Mlx5:
    return Mlx5(cast(FirmwareSettings, Tool(mode, error)))


@pytest.mark.parametrize("mode", [None, 2])
def test_a_good_card_has_no_findings(mode: Optional[int]) -> None:
    assert list(with_tool(mode).findings(GOOD, ask_tool=True)) == []


@pytest.mark.parametrize(
    ("state", "severity", "text", "remedy"),
    [
        (
            {"firmware": "28.35.4000", "stored_firmware": "28.35.4000"},
            ERROR,
            "runs firmware 28.35.4000, migration needs 28.36.1010 or newer",
            "mstflint -d 0000:e1:00.0",
        ),
        (
            {"firmware": None, "stored_firmware": None},
            WARNING,
            "does not report its firmware",
            "devlink dev info",
        ),
        (
            {"stored_firmware": "28.43.1014"},
            WARNING,
            "runs firmware 28.42.1000 and will run 28.43.1014 after its next reset",
            "reset the cards together",
        ),
        ({"psid": None}, WARNING, "does not report its PSID", "devlink dev info"),
        (
            {"lacks_flag": True},
            ERROR,
            "the firmware of PF 0000:e1:00.0 cannot migrate its VFs",
            "VF_MIGRATION_MODE=2",
        ),
    ],
)
def test_each_fault_of_a_card_has_a_finding_with_a_remedy(
    state: dict[str, Any], severity: str, text: str, remedy: str
) -> None:
    (finding,) = VENDOR.findings(replace(GOOD, **state))
    assert finding.severity == severity
    assert text in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize("lacks_flag", [True, False])
def test_vf_migration_mode_0_is_an_error_with_the_command_that_sets_it(lacks_flag: bool) -> None:
    (finding,) = with_tool(0).findings(replace(GOOD, lacks_flag=lacks_flag), ask_tool=True)
    assert finding.severity == ERROR
    assert finding.text == (
        "the firmware of PF 0000:e1:00.0 has VF_MIGRATION_MODE=0, so its VFs cannot migrate"
    )
    assert finding.remedy == (
        "run: mstconfig -d 0000:e1:00.0 set VF_MIGRATION_MODE=2; then mstfwreset -d 0000:e1:00.0 reset"
    )


def test_the_tool_runs_only_on_request() -> None:
    assert list(with_tool(0).findings(GOOD)) == []


def test_a_tool_that_fails_is_a_warning() -> None:
    (finding,) = with_tool(error=HostError("it broke", "mend it")).findings(GOOD, ask_tool=True)
    assert (finding.severity, finding.text, finding.remedy) == (WARNING, "it broke", "mend it")


@pytest.mark.parametrize(
    ("firmware", "configured", "oldest"),
    [
        ("22.38.1002", None, None),
        ("22.36.1010", None, "22.38.1002"),
        ("24.31.1014", None, "24.38.1002"),
        ("28.36.1010", None, None),
        ("28.9.2000", None, "28.36.1010"),
        ("28.36.999", None, "28.36.1010"),
        ("32.33.1048", None, "32.36.1010"),
        ("40.44.1036", None, None),
        ("99.1.1", None, None),  # a family of which nothing is known: the flag decides
        # what the pool says holds for the family that it names, and for no other
        ("28.39.1002", (28, 41, 1000), "28.41.1000"),
        ("28.33.0800", (28, 33, 100), None),
        ("32.37.1300", (28, 41, 1000), None),
        ("22.35.1012", (28, 41, 1000), "22.38.1002"),
    ],
)
def test_firmware_is_compared_within_its_family(
    firmware: str, configured: Optional[tuple[int, ...]], oldest: Optional[str]
) -> None:
    state = replace(GOOD, firmware=firmware, stored_firmware=firmware, firmware_min=configured)
    assert [finding.text for finding in VENDOR.findings(state)] == (
        [] if oldest is None else [f"PF {PF} runs firmware {firmware}, migration needs {oldest} or newer"]
    )


def test_the_manual_lists_the_minimum_of_each_family() -> None:
    page = (Path(__file__).parents[3] / "docs" / "prepare-the-card.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \w+-\d[^|]* \| (\d+\.\d+\.\d+) \|", page, re.MULTILINE)
    assert listed == [".".join(map(str, oldest)) for oldest in FIRMWARE_MIN.values()]
