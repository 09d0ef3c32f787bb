# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a card vendor, and how to add one.

A vendor is one module of this package, `cards/NAME.py`. The module derives a class from `Vendor` and names an
instance of it `VENDOR`; it is registered by being in the package. `Vendor` itself describes a card that needs nothing
but a VFIO variant driver, so a vendor overrides only what is different about its cards:

1. **Which cards.** `pci_vendor`, and `pci_devices` if only some PFs of that PCI vendor are meant, for example
   because the others have another driver. The core finds the vendor by the PCI ID of the PF (`registry`); a card
   that matches no module is `generic`.
2. **What makes a VF migratable.** Most variant drivers need nothing more: leave `needs_flag` alone. Set it if the
   driver reads the `migratable` flag of the devlink port function when it binds; the core then refuses a VF whose
   port lacks the flag, with the text of `cannot_migrate()`. If the kernel offers the flag, the core sets it before
   the driver is bound, whatever the vendor.
3. **Firmware.** `firmware()` judges the versions that devlink reports. Numbers of different families of card do not
   compare: keep a minimum for each family. Prefer what the kernel shows (the variant driver, the flag); judge by a
   version only if nothing else shows it. What a free VF answers (`CardState.can_migrate`) goes before all of this.
   `settings()` is for what only the vendor's own tool can read, which may take a second; it is called while
   provisioning, never while a hook waits.
4. **Remedies.** `load_driver`, `install_variant`, `manage_eswitch`, `enable_sriov()`, `enable_migration()`,
   `enable_ethernet()` and `update_firmware()` say what to run on the host of the card, as a command that can be
   pasted. `kernel_remedies` has one for each text by which the card's driver refuses a change through devlink.
5. **How many at once.** `max_migrating`: how many VFs of one PF can migrate at the same time.
6. **The MAC of a free VF.** `free_mac`: what the port function shows for a VF to which nobody gave a MAC. The core
   resets any other MAC of a free VF to it. Leave it None for a card that gives its VFs MACs by itself.

Then write `tests/unit/cards/test_NAME.py`: each finding once, with what it says and its remedy.

A vendor has no state, changes nothing and raises nothing: what it cannot find out is a warning among its findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Callable, Optional

from vfmigrate.model.pci import PciAddress, PciId
from vfmigrate.rules.findings import ERROR, WARNING, Finding, Remedies

#: as many VFs as a remedy proposes where the pool names no number
_SOME_VFS = 16


@dataclass(frozen=True)
class CardState:
    """What is known of the card of one PF. None: unknown."""

    pf: PciAddress
    #: identifier of the card's firmware configuration
    psid: Optional[str] = None
    #: the firmware that runs, and the one that will after the card's next reset
    firmware: Optional[str] = None
    stored_firmware: Optional[str] = None
    #: `firmware_min` of the pool; None: it is left to the vendor
    firmware_min: Optional[tuple[int, ...]] = None
    #: the PF is in switchdev mode, and the port of a VF lacks the `migratable` flag that the VF needs
    lacks_flag: bool = False
    #: what the driver of a free VF answered when it was asked whether it can migrate
    can_migrate: Optional[bool] = None


class Vendor:
    """A vendor of cards; without changes, one whose cards need nothing but a variant driver."""

    #: PCI vendor ID, and the device IDs of the PFs that are meant (None: all of that vendor)
    pci_vendor: Optional[int] = None
    pci_devices: Optional[frozenset[int]] = None

    #: a VF can migrate only if its port has the `migratable` flag and its driver was bound after the flag was set
    needs_flag = False
    #: VFs of one PF that may migrate at the same time, unless the pool says otherwise; four is the only number that any
    #: vendor documents
    max_migrating = 4
    #: the MAC that the port function of a VF shows when nobody gave it one; None: it can be any
    free_mac: Optional[str] = None

    #: remedy: the PF has no driver, or one without devlink
    load_driver = "load the driver of the card; see dmesg"
    #: remedy: the kernel has no variant driver for the VFs
    install_variant = (
        "install a kernel that has the variant driver of this card: see alias vfio_pci in modules.alias"
    )
    #: remedy: the kernel does not let this host manage the eswitch of a PF
    manage_eswitch = (
        "see dmesg; check that this card and its driver have an eswitch, and that this host manages it"
    )
    #: remedies for what the kernel answers through devlink, by a part of its text
    kernel_remedies: Mapping[str, str] = MappingProxyType({})

    # -- what a vendor may replace

    def is_for(self, pci_id: PciId) -> bool:
        """Whether a PF of this ID is one of this vendor's."""
        return pci_id.vendor == self.pci_vendor and (
            self.pci_devices is None or pci_id.device in self.pci_devices
        )

    def enable_sriov(self, pf: str, vfs: int) -> str:  # noqa: ARG002 - for vendors that have a command
        """Remedy: make the card offer `vfs` VFs on a PF."""
        return f"enable SR-IOV with {vfs} VFs in the card's own setup or in the BIOS"

    def enable_migration(self, pf: str) -> str:  # noqa: ARG002 - for vendors that have a command
        """Remedy: make the card offer migration of a PF's VFs."""
        return "update the firmware of the card"

    def update_firmware(self, pf: str) -> str:  # noqa: ARG002 - for vendors that have a command
        """Remedy: give the card newer firmware."""
        return "update the firmware of the card"

    def enable_ethernet(self, pf: PciAddress) -> str:  # noqa: ARG002 - for vendors that have a command
        """Remedy: make the port of a PF, which speaks InfiniBand, speak Ethernet."""
        return "set the port to Ethernet in the card's own setup"

    def firmware(self, card: CardState) -> Iterator[Finding]:
        """What is wrong with the firmware of a card."""
        yield from self.older(card, card.firmware_min)
        yield from self.pending(card)

    def settings(self, pf: PciAddress) -> Iterator[Finding]:  # noqa: ARG002 - for vendors that have a tool
        """What is wrong with the settings of a card's firmware, read with the vendor's own tool; may be slow."""
        return iter(())

    def migration_setting(self, pf: PciAddress) -> Optional[int]:  # noqa: ARG002 - for vendors that have a tool
        """The setting of a PF's firmware that enables migration, read by a tool; None where there is none."""
        return None

    def reading_setting_by(self, read: Callable[[PciAddress], Optional[int]]) -> Vendor:  # noqa: ARG002 - as above
        """The same vendor, for whose findings that setting is read by `read`: by a process that has the right to."""
        return self

    # -- used by vendors and by the core as they are

    def lacks_flag(self, migratable: Optional[bool]) -> bool:
        """Whether a VF cannot migrate because its port has no `migratable` flag; None is a port without one."""
        return self.needs_flag and migratable is None

    def cannot_migrate(self, pf: str) -> Finding:
        """The card does not offer migration of a PF's VFs."""
        return Finding(ERROR, f"the firmware of PF {pf} cannot migrate its VFs", self.enable_migration(pf))

    def findings(self, card: CardState, *, ask_tool: bool = False) -> Iterator[Finding]:
        """Everything that is wrong with a card; `ask_tool` also asks the vendor's tool."""
        yield from self.firmware(card)
        settings = list(self.settings(card.pf)) if ask_tool and not card.can_migrate else []
        yield from settings
        reported = any(finding.severity == ERROR for finding in settings)
        if card.lacks_flag and self.needs_flag and not reported and not card.can_migrate:
            yield self.cannot_migrate(str(card.pf))

    def remedies(self, pf: PciAddress, vfs: Optional[int]) -> Remedies:
        """What to do about findings that do not depend on the vendor; `vfs` is how many VFs the pool wants."""
        return Remedies(
            sriov=self.enable_sriov(str(pf), vfs or _SOME_VFS),
            driver=self.load_driver,
            variant=self.install_variant,
            eswitch=self.manage_eswitch,
            ethernet=self.enable_ethernet(pf),
            migration=self.enable_migration(str(pf)),
        )

    def older(self, card: CardState, oldest: Optional[tuple[int, ...]]) -> Iterator[Finding]:
        """An error when the card runs older firmware than `oldest`."""
        if card.firmware is None or oldest is None or version(card.firmware) >= oldest:
            return
        text = f"PF {card.pf} runs firmware {card.firmware}, migration needs {'.'.join(map(str, oldest))} or newer"
        yield Finding(ERROR, text, self.update_firmware(str(card.pf)))

    def pending(self, card: CardState) -> Iterator[Finding]:
        """A warning when the card will run other firmware after its next reset."""
        if card.firmware is None or card.stored_firmware in (None, card.firmware):
            return
        text = f"PF {card.pf} runs firmware {card.firmware} and will run {card.stored_firmware} after its next reset"
        yield Finding(
            WARNING,
            text,
            "guests migrate only between hosts that run the same version: reset the cards together",
        )


def version(text: str) -> tuple[int, ...]:
    """A firmware version as numbers to compare; what is not a number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))
