# SPDX-License-Identifier: GPL-2.0-or-later
"""What was added to a guest's definition, noted in its metadata, so that it can be removed again without a trace.

libvirt adds PCI controllers on its own for a new device, and they must have consecutive indexes. One that was added can
therefore be removed only once those behind it are gone: the note outlives the device that it was added for. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Optional

from vfmigrate.domain import metadata, pci_topology
from vfmigrate.domain.markup import Element, Markup

URI = "urn:vfmigrate:added:1"


@dataclass(frozen=True)
class Additions:
    """What was added to a definition."""

    #: alias of the standby of each failover pair, by the MAC of the pair
    pairs: Mapping[str, str] = field(default_factory=dict)
    #: indexes of the PCI controllers that libvirt added
    controllers: tuple[int, ...] = ()
    #: elements that were there without content: 'metadata/' for <metadata/>, 'metadata' for <metadata></metadata>
    kept: tuple[str, ...] = ()


def read(root: Element) -> Additions:
    """What the metadata notes."""
    note = root.first(f"metadata/{URI} added")
    if note is None:
        return Additions()
    return Additions(
        {
            each.attributes.get("mac", ""): each.attributes.get("alias", "")
            for each in note.all(f"{URI} pair")
        },
        tuple(int(index) for index in note.attributes.get("controllers", "").split() if index.isdecimal()),
        tuple(note.attributes.get("kept", "").split()),
    )


def kept(markup: Markup, *paths: str) -> tuple[str, ...]:
    """The elements at these paths that have no content, as `Additions.kept` notes them."""
    found = ((path, markup.root.first(path)) for path in paths)
    return tuple(
        f"{path.rpartition(' ')[2]}{'/' if element.empty else ''}"
        for path, element in found
        if element is not None and markup.is_blank(element)
    )


def write(xml: str, additions: Additions) -> str:
    """The definition with this note, or without one if it would say nothing."""
    markup = Markup(xml)
    place = markup.root.first("metadata")
    present = place.first(f"{URI} added") if place is not None else None
    has_marks = any(True for _ in markup.root.all(f"metadata/{metadata.URI} vfs/{metadata.URI} vf"))
    if not (additions.pairs or (has_marks and (additions.controllers or additions.kept))):
        if present is not None:
            markup.remove(present)
        return without_empty(markup.text(), "metadata", additions.kept)
    if present is None:
        words = (*additions.kept, *(word for word in kept(markup, "metadata") if word not in additions.kept))
        additions = replace(additions, kept=words)
    lines = _lines(additions)
    if place is None:
        uuid = markup.root.first("uuid") or markup.root.children[0]
        markup.insert_after(uuid, ["<metadata>", *(f"  {line}" for line in lines), "</metadata>"])
    elif present is None:
        markup.append(place, lines)
    else:
        markup.replace(present, f"\n{markup.indent(present)}".join(lines))
    return markup.text()


def _lines(additions: Additions) -> list[str]:
    controllers = " ".join(map(str, sorted(additions.controllers)))
    words = {"controllers": controllers, "kept": " ".join(additions.kept)}
    attributes = "".join(f" {key}='{escape(value)}'" for key, value in words.items() if value)
    tag = f"<{metadata.PREFIX}:added xmlns:{metadata.PREFIX}='{URI}'{attributes}"
    if not additions.pairs:
        return [f"{tag}/>"]
    return [
        f"{tag}>",
        *(
            f"  <{metadata.PREFIX}:pair mac='{escape(mac)}' alias='{escape(alias)}'/>"
            for mac, alias in sorted(additions.pairs.items())
        ),
        f"</{metadata.PREFIX}:added>",
    ]


def without_empty(xml: str, path: str, kept_words: Collection[str]) -> str:
    """The definition without the element at a path, if that has no content; it stays if it had none before."""
    markup = Markup(xml)
    element = markup.root.first(path)
    if element is None or element.empty or not markup.is_blank(element):
        return xml
    remove_empty(markup, element, kept_words)
    return markup.text()


def remove_empty(markup: Markup, element: Element, kept_words: Collection[str]) -> None:
    """Remove an element, or leave it without content if it was so before."""
    name = element.name.rpartition(" ")[2]
    if f"{name}/" in kept_words:
        markup.replace(element, f"{markup.tag(element)[:-1]}/>")
    elif name in kept_words:
        for child in element.children:
            markup.remove(child)
    else:
        markup.remove(element)


# -- PCI controllers


def note_controllers(before: str, after: str) -> str:
    """`after`, libvirt's own text of what was made of `before`, with the controllers noted that libvirt added."""
    old, new = Markup(before).root, Markup(after).root
    added = set(pci_topology.controllers(new)) - set(pci_topology.controllers(old))
    present = read(new)
    if not added:
        return after
    return write(after, replace(present, controllers=(*present.controllers, *sorted(added))))


def without_controllers(xml: str, additions: Optional[Additions] = None) -> str:
    """The definition without the added controllers that nothing is on and that are the last ones; notes the others."""
    markup = Markup(xml)
    additions = additions if additions is not None else read(markup.root)
    devices = list(markup.root.all("devices/*"))
    left = set(additions.controllers)
    gone: list[Element] = []
    present = pci_topology.controllers(markup.root)
    for index, controller in sorted(present.items(), reverse=True):
        used = any(index in pci_topology.buses(device) for device in devices if device not in gone)
        if index not in left or used:
            break
        markup.remove(controller)
        gone.append(controller)
        left.discard(index)
    return write(markup.text(), replace(additions, controllers=tuple(sorted(left & set(present)))))
