# SPDX-License-Identifier: GPL-2.0-or-later
"""Hook directories run the way vdsm runs them, for tests on machines that have no vdsm.

Kept to what vdsm 4.50 does in lib/vdsm/common/hooks.py: every executable file of the point's directory, sorted as
strings, with vdsm's environment, then the device's custom properties, then the VM's over them; the data in a file named
by _hook_domxml or _hook_json; status 2 stops the row; any other failure lets it go on; points that may refuse raise.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

#: points at which vdsm raises what a hook refused (raiseError); at the others it only writes a line to its log
REFUSABLE = frozenset(
    {
        "before_device_create",
        "before_vm_start",
        "before_nic_hotplug",
        "before_nic_hotunplug",
        "before_vm_migrate_source",
        "before_vm_migrate_destination",
    }
)


class HookError(Exception):
    """What vdsm raises, with the last failed hook's standard error."""


@dataclass
class VdsmHooks:
    """A tree of hook directories, and the user that runs them."""

    directory: Path
    #: what vdsm itself has in its environment
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    )
    user: int = 65534
    group: int = 65534
    #: status and standard error of every script that ran, in order
    log: list[tuple[str, int, str]] = field(default_factory=list)

    def xml(
        self,
        point: str,
        data: Optional[str],
        vm_id: Optional[str] = None,
        *,
        device: Mapping[str, str] = {},
        vm: Mapping[str, str] = {},
    ) -> str:
        """Run a point that is handed XML; returns what its hooks made of it. Raises HookError."""
        text = self._run(point, (data or "").encode(), "_hook_domxml", vm_id, {**device, **vm})
        return text.decode()

    def json(self, point: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Run a point that is handed JSON; returns what its hooks made of it."""
        told = json.loads(self._run(point, json.dumps(data).encode(), "_hook_json", None, {}))
        assert isinstance(told, dict)
        return told

    def _run(
        self, point: str, data: bytes, variable: str, vm_id: Optional[str], custom: Mapping[str, str]
    ) -> bytes:
        scripts = sorted(
            name
            for name in glob.glob(str(self.directory / point / "*"))  # noqa: PTH207 - as vdsm: no hidden files
            if Path(name).is_file() and Path(name).stat().st_mode & 0o111
        )
        if not scripts:
            return data
        descriptor, name = tempfile.mkstemp()
        try:
            os.write(descriptor, data)
            os.close(descriptor)
            os.chown(name, self.user, self.group)
            environment = {**self.environment, **custom}
            if vm_id is not None:
                environment["vmId"] = vm_id
            environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:/vdsm/hook"
            environment[variable] = name
            errors = self._run_all(scripts, environment)
            if errors and point in REFUSABLE:
                raise HookError(errors[-1])
            return Path(name).read_bytes()
        finally:
            Path(name).unlink()

    def _run_all(self, scripts: list[str], environment: Mapping[str, str]) -> list[str]:
        errors = []
        for script in scripts:
            done = subprocess.run(
                [script],
                env=environment,
                user=self.user,
                group=self.group,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                timeout=30,
            )
            self.log.append((Path(script).name, done.returncode, done.stderr))
            if done.returncode:
                errors.append(done.stderr)
            if done.returncode == 2:
                break
        return errors
