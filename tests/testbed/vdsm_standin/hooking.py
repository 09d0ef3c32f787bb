# SPDX-License-Identifier: GPL-2.0-or-later
"""What vdsm's module `hooking` offers to hooks, as far as the neighbour hook of the test hosts needs it."""

import os
from pathlib import Path
from xml.dom import minidom

VARIABLE = "_hook_domxml"


def read_domxml() -> minidom.Document:
    """The document that vdsm handed over."""
    return minidom.parseString(Path(os.environ[VARIABLE]).read_bytes())  # noqa: S318 - our own test's


def write_domxml(document: minidom.Document) -> None:
    """Give a document back to vdsm."""
    Path(os.environ[VARIABLE]).write_bytes(document.toxml(encoding="utf-8"))
