# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's errors are turned into ours in one place."""

from __future__ import annotations

from pathlib import Path

VIRT = Path(__file__).parents[3] / "lib" / "vfmigrate" / "virt"


def test_no_other_module_handles_libvirterror() -> None:
    found = {module.name for module in VIRT.rglob("*.py") if "libvirtError" in module.read_text()}
    assert found == {"errors.py"}
