# SPDX-License-Identifier: GPL-2.0-or-later
"""The PCI buses of a guest: which controllers it has, and what can be plugged and unplugged there. Pure."""

from __future__ import annotations

from typing import Optional

from vfmigrate.domain import pci_xml
from vfmigrate.domain.markup import Element

# Controllers with hot-plug of PCI Express.
_PLUGGABLE = ("pcie-root-port", "pcie-switch-downstream-port")


def controllers(root: Element) -> dict[int, Element]:
    """The PCI controllers of a `<domain>` by index, which is the bus behind them. Raises InputError."""
    return {
        pci_xml.number(each.attributes["index"]): each
        for each in root.all("devices/controller")
        if each.attributes.get("type") == "pci" and "index" in each.attributes
    }


def buses(device: Element) -> set[int]:
    """The buses of the guest that a device is on. Raises InputError."""
    return {
        pci_xml.number(address.attributes.get("bus"))
        for address in device.all("address")
        if address.attributes.get("type") == "pci"
    }


def has_pci_express(root: Element) -> bool:
    """Whether the guest's first bus is one of PCI Express, as far as its XML says. Raises InputError."""
    first = controllers(root).get(0)
    machine = root.get("os/type", "machine") or ""
    return "i440fx" not in machine and (first is None or first.attributes.get("model") == "pcie-root")


def is_pluggable(controller: Element) -> bool:
    """Whether a device can be plugged in behind this controller, and be unplugged again."""
    return controller.attributes.get("model") in _PLUGGABLE and controller.get("target", "hotplug") != "off"


def obstacle(root: Element, device: Element) -> Optional[str]:
    """The controller from which a device cannot be unplugged, in words that follow "is on a"; None without an obstacle.

    A device without an address gets a fitting one from libvirt. Raises InputError.
    """
    present = controllers(root)
    for bus in buses(device):
        controller = present.get(bus)
        if controller is None:
            return "bus without a controller" if present else None
        if not is_pluggable(controller):
            model = controller.attributes.get("model", "")
            return f"{model}{' without hot-plug' if model in _PLUGGABLE else ''}"
    return None


def remedy(device: Element) -> str:
    """How an administrator moves a device to where it can be unplugged.

    A network that did not exist when the guest was defined: libvirt gave its interface a model of its own. Its
    place is on conventional PCI, now and every time its address is removed.
    """
    model = device.get("model", "type")
    wrong = f" and <model type='{model}'/>" if model is not None and not model.startswith("virtio") else ""
    return (
        f"move it to a pcie-root-port: remove its <address type='pci'>{wrong} in virsh edit"
        + (", and add <model type='virtio'/>" if device.attributes.get("type") == "network" else "")
        + "; then restart the guest"
    )
