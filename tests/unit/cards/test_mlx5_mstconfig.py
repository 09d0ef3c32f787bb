# SPDX-License-Identifier: GPL-2.0-or-later
"""What mstconfig prints, and the tool when it is there, fails, or is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.cards import mlx5_mstconfig
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress

PF = PciAddress(0, 0xE1, 0, 0)
OUTPUT = """
Device #1:
----------

Device type:        ConnectX7
Name:               MCX75310AAS-NEA_Ax
Description:        NVIDIA ConnectX-7 HHHL adapter card
Device:             0000:e1:00.0

Configurations:                                          Next Boot
        VF_MIGRATION_MODE                           MIGRATION_ENABLED(2)
"""


def tool(place: Path, script: str, lockdown: Path = Path("/no/such/file")) -> FirmwareSettings:
    path = place / "mstconfig"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return FirmwareSettings(tools=(str(place / "absent"), str(path)), lockdown=lockdown)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("  VF_MIGRATION_MODE   MIGRATION_ENABLED(2)", 2),
        ("  VF_MIGRATION_MODE   DEVICE_DEFAULT(0)   MIGRATION_DISABLED(1)", 1),
        ("* VF_MIGRATION_MODE   2", 2),
        ("  VF_MIGRATION_MODE   N/A", None),
        ("  NUM_OF_VFS   8", None),
    ],
)
def test_the_value_is_read_from_each_form_of_line(line: str, value: int) -> None:
    assert mlx5_mstconfig.parse(line, "VF_MIGRATION_MODE") == value


def test_the_tool_gets_the_address_of_the_pf(tmp_path: Path) -> None:
    settings = tool(tmp_path, f"[ \"$*\" = '-d {PF} query VF_MIGRATION_MODE' ] && cat <<'E'\n{OUTPUT}E")
    assert settings.vf_migration_mode(PF) == 2


def test_a_missing_tool_gives_no_value(tmp_path: Path) -> None:
    assert FirmwareSettings(tools=(str(tmp_path / "absent"),)).vf_migration_mode(PF) is None


@pytest.mark.parametrize(
    "message",
    [
        "Unknown Parameter: VF_MIGRATION_MODE",
        "Unknown Parameter VF_MIGRATION_MODE",
        "Unknown parameter: VF_MIGRATION_MODE",
        "Unknown parameter VF_MIGRATION_MODE of the configuration nv_sriov",
        "The Device doesn't support VF_MIGRATION_MODE parameter",
        "Device doesn't support VF_MIGRATION_MODE configuration",
        "Device '0000:e1:00.0' does not support configuration named 'VF_MIGRATION_MODE'",
    ],
)
@pytest.mark.parametrize("stream", [1, 2])
def test_a_setting_that_the_firmware_does_not_know_is_none(tmp_path: Path, message: str, stream: int) -> None:
    settings = tool(tmp_path, f'echo "-E- {message}" >&{stream}; exit 3')
    assert settings.vf_migration_mode(PF) is None


@pytest.mark.parametrize(
    "message",
    ["Device doesn't support any configuration changes.", "Unsupported device", "Failed to open the device"],
)
def test_a_card_that_cannot_be_queried_is_not_taken_for_one_without_the_setting(
    tmp_path: Path, message: str
) -> None:
    settings = tool(tmp_path, f'echo "-E- {message}" >&2; exit 3')
    with pytest.raises(HostError, match=message):
        settings.vf_migration_mode(PF)


@pytest.mark.parametrize("message", ["Failed to open the device", "Failed to identify the device"])
@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_a_kernel_that_is_locked_down_is_the_reason_for_all_cards(
    tmp_path: Path, message: str, mode: str
) -> None:
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none integrity confidentiality\n".replace(mode, f"[{mode}]"))
    settings = tool(tmp_path, f'echo "-E- {message}" >&2; exit 1', lockdown)
    texts = set()
    for pf in (PF, PciAddress(0, 0xE1, 0, 1)):
        with pytest.raises(
            HostError, match=f"the kernel is locked down .{mode}; Secure Boot.*of any card"
        ) as e:
            settings.vf_migration_mode(pf)
        texts.add(str(e.value))
    assert len(texts) == 1


def test_a_tool_that_works_although_the_kernel_is_locked_down(tmp_path: Path) -> None:
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none [integrity] confidentiality\n")
    assert tool(tmp_path, f"cat <<'E'\n{OUTPUT}E", lockdown).vf_migration_mode(PF) == 2


@pytest.mark.parametrize("content", ["[none] integrity confidentiality\n", "", None])
def test_a_tool_that_fails_on_a_kernel_that_is_not_locked_down(
    tmp_path: Path, content: Optional[str]
) -> None:
    lockdown = tmp_path / "lockdown"
    if content is not None:
        lockdown.write_text(content)
    with pytest.raises(HostError, match="Failed to open"):
        tool(tmp_path, "echo '-E- Failed to open the device' >&2; exit 1", lockdown).vf_migration_mode(PF)


def test_a_failing_tool_is_an_error_with_its_message(tmp_path: Path) -> None:
    settings = tool(tmp_path, "echo '-E- Failed to open device' >&2; exit 3")
    with pytest.raises(HostError, match=r"VF_MIGRATION_MODE of PF 0000:e1:00\.0: -E- Failed to open") as e:
        settings.vf_migration_mode(PF)
    assert "-d 0000:e1:00.0 query VF_MIGRATION_MODE" in e.value.remedy
