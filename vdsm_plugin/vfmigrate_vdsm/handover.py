# SPDX-License-Identifier: GPL-2.0-or-later
"""What vdsm hands to a hook and takes back: the XML or JSON in a file, the rest in the environment.

The contract of vdsm's own `hooking` module, which is not imported: vdsm says where it is in PYTHONPATH, a variable
that a custom property can set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional
from xml.etree import ElementTree as ET

from vfmigrate_vdsm.daemon import PluginError


def read_xml() -> Optional[ET.Element]:
    """The device's or domain's XML; None where vdsm has none, as at before_vm_destroy. Raises PluginError."""
    text = _file("_hook_domxml").read_bytes()
    if not text.strip():
        return None
    try:
        _keep_prefixes(text)
        return ET.fromstring(text)  # noqa: S314 - vdsm's own, and expat loads nothing
    except ET.ParseError as error:
        raise PluginError(f"vdsm's XML cannot be read: {error}") from None


def _keep_prefixes(text: bytes) -> None:
    """Have namespaces written with the prefixes that they came with."""
    parser = ET.XMLPullParser(events=("start-ns",))
    parser.feed(text)
    events: Any = parser.read_events()  # typeshed does not know what a start-ns event carries
    for _event, (prefix, uri) in events:
        try:
            ET.register_namespace(prefix, uri)
        except ValueError:  # ns0 and its like belong to ElementTree, which writes them anyway
            continue


def write_xml(root: ET.Element) -> None:
    """Give XML back to vdsm."""
    _file("_hook_domxml").write_bytes(ET.tostring(root, encoding="utf-8"))


def read_json() -> dict[str, Any]:
    """The host's capabilities or statistics. Raises PluginError."""
    try:
        values = json.loads(_file("_hook_json").read_bytes())
    except ValueError:
        raise PluginError("vdsm's JSON cannot be read") from None
    if not isinstance(values, dict):
        raise PluginError("vdsm's JSON is not an object")
    return values


def write_json(values: Mapping[str, Any]) -> None:
    """Give JSON back to vdsm."""
    _file("_hook_json").write_text(json.dumps(values), encoding="utf-8")


def vm_id() -> str:
    """The UUID of the guest. Raises PluginError where vdsm does not say."""
    found = os.environ.get("vmId", "")  # noqa: SIM112 - vdsm's spelling
    if not found:
        raise PluginError("vdsm does not say which guest this is (vmId)")
    return found


def printable(text: str) -> str:
    """The text in one line, with all but visible characters and blanks escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))


def log(message: str) -> None:
    """Write a line to vdsm's log, which has what hooks write to standard error."""
    sys.stderr.write(f"vfmigrate: {printable(message)}\n")


def _file(variable: str) -> Path:
    name = os.environ.get(variable)
    if not name:
        raise PluginError(f"this is a hook of vdsm: it needs {variable} in the environment")
    return Path(name)
