# SPDX-License-Identifier: GPL-2.0-or-later
"""Hook directories run the way vdsm runs them, for tests on machines that have no vdsm.

Kept to what vdsm 4.50 does in lib/vdsm/common/hooks.py: every executable file of the point's directory, sorted as
strings, with vdsm's environment, then the device's custom properties, then the VM's over them; the data in a file named
by _hook_domxml or _hook_json; status 2 stops the sequence; after any other failure it continues; points that can refuse
raise.

Standard library only: as a program it runs on a test host, one call as JSON on standard input (see `main`).
"""

from __future__ import annotations

import glob
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

#: points at which a refusal of a hook makes vdsm raise (raiseError); at others it only logs
REFUSABLE = frozenset(
    {
        "before_device_create",
        "before_vm_start",
        "before_nic_hotplug",
        "before_nic_hotunplug",
        "before_device_migrate_source",
        "before_vm_migrate_source",
        "before_device_migrate_destination",
        "before_vm_migrate_destination",
    }
)


class HookError(Exception):
    """What vdsm raises, with the standard error of the last hook that ran, whether it failed or not.

    At before_vm_start it is the last that failed.
    """


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
    #: the directory of vdsm's `hooking` module
    module: str = "/vdsm/hook"
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
        """Run a point that gets XML; returns the hooks' XML. Raises HookError."""
        text = self._run(point, (data or "").encode(), "_hook_domxml", vm_id, {**device, **vm})
        return text.decode()

    def json(self, point: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Run a point that gets JSON; returns the hooks' JSON."""
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
            environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{self.module}"
            environment[variable] = name
            begun = len(self.log)
            errors = self._run_all(scripts, environment)
            if errors and point in REFUSABLE:
                raise HookError(errors[-1] if point == "before_vm_start" else self.log[begun:][-1][2])
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
                timeout=60,
            )
            self.log.append((Path(script).name, done.returncode, done.stderr))
            if done.returncode:
                errors.append(done.stderr)
            if done.returncode == 2:
                break
        return errors


def main() -> None:
    """Run the point of a call on standard input, and print the result, both as JSON.

    The call has `directory`, `module`, `user`, `point`, and either `json`, or `xml` with `vm_id`, `device` and `vm`;
    the answer `data` (null when it was refused), `refusal` (or null) and `log`.
    """
    call = json.load(sys.stdin)
    user = pwd.getpwnam(call["user"])
    hooks = VdsmHooks(Path(call["directory"]), user=user.pw_uid, group=user.pw_gid, module=call["module"])
    data: Any = None
    refusal = None
    try:
        if "json" in call:
            data = hooks.json(call["point"], call["json"])
        else:
            device, vm = call.get("device", {}), call.get("vm", {})
            data = hooks.xml(call["point"], call["xml"], call["vm_id"], device=device, vm=vm)
    except HookError as error:
        refusal = str(error)
    json.dump({"data": data, "refusal": refusal, "log": hooks.log}, sys.stdout)


if __name__ == "__main__":
    main()
