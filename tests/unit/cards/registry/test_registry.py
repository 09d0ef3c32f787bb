# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vendor a card is found to be of, and that nobody else knows of any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfmigrate.cards import generic, mlx5, registry
from vfmigrate.cards.registry import Vendors
from vfmigrate.cards.vendor import Vendor
from vfmigrate.model.pci import PciId

TREE = Path(__file__).parents[4]
LIBRARY = TREE / "lib" / "vfmigrate"
#: names of vendors, of their cards, drivers and tools, and a PCI vendor ID
NAMES = re.compile(
    r"mlx5|mst(config|flint|fwreset)|mlxconfig|SRIOV_EN\b|NUM_OF_VFS|VF_MIGRATION_MODE|connectx|bluefield|nvidia|mellanox|15b3",
    re.IGNORECASE,
)


def test_each_module_in_the_folder_is_a_vendor() -> None:
    found = registry.discover().all
    assert mlx5.VENDOR in found
    assert generic.VENDOR in found


@pytest.mark.parametrize(
    ("pci_id", "vendor"),
    [
        (PciId(0x15B3, 0x1021), mlx5.VENDOR),
        (PciId(0x15B3, 0x101D), mlx5.VENDOR),  # also a card that udev does not prepare
        (PciId(0x8086, 0x10C9), generic.VENDOR),
        (None, generic.VENDOR),
    ],
)
def test_a_vendor_is_found_by_the_id_of_the_pf(pci_id: PciId, vendor: Vendor) -> None:
    assert registry.known().of(pci_id) is vendor


@pytest.mark.parametrize("text", [None, "", "15b3", "15b3:1021:0", "zzzz:zzzz"])
def test_an_invalid_pci_id_from_another_host_gets_the_generic_vendor(text: str) -> None:
    assert registry.known().named(text) is generic.VENDOR
    assert registry.known().named("15b3:1021") is mlx5.VENDOR


def test_a_vendor_with_device_ids_precedes_one_for_all_devices() -> None:
    class Whole(Vendor):
        pci_vendor = 1

    class Part(Vendor):
        pci_vendor = 1
        pci_devices = frozenset({7})

    whole, part = Whole(), Part()
    for vendors in (Vendors([whole, part]), Vendors([part, whole])):
        assert vendors.of(PciId(1, 7)) is part
        assert vendors.of(PciId(1, 8)) is whole


def test_only_cards_names_a_vendor() -> None:
    """Comments and docstrings too: facts of one vendor's cards belong in the module of that vendor."""
    named = [
        f"{file.relative_to(TREE)}:{number}: {line.strip()}"
        for file in sorted(LIBRARY.rglob("*.py"))
        if LIBRARY / "cards" not in file.parents
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if NAMES.search(line)
    ]
    assert named == [], "move it to the vendor's module in lib/vfmigrate/cards"


def test_no_other_package_imports_a_vendor() -> None:
    """The modules that others may use are the interface and the look-up."""
    importing = re.compile(
        r"^\s*(?:from vfmigrate\.cards\.(\w+) import|from vfmigrate\.cards import (.+))", re.MULTILINE
    )
    used = {
        name
        for file in LIBRARY.rglob("*.py")
        if LIBRARY / "cards" not in file.parents
        for module, names in importing.findall(file.read_text(encoding="utf-8"))
        for name in (module, *names.split(", "))
        if name
    }
    assert used <= {"registry", "vendor"}


def test_the_rules_of_udev_name_no_card() -> None:
    rules = (TREE / "udev" / "70-vfmigrate.rules").read_text(encoding="utf-8")
    assert "ATTR{vendor}" not in rules
