# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripts as such: their order, what they import, what they make of nonsense."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from tests.fakes.vdsm_hooks import HookError
from tests.unit.vdsm_plugin.vdsm import BRIDGE, POINTS, VFIO, VM, Vdsm
from vfmigrate.config import configuration
from vfmigrate.rpc.server import listening_socket


def test_only_executable_files_of_good_names_run_in_order(vdsm: Vdsm) -> None:
    folder = vdsm.script("before_device_create").parent
    for name, mode, status in (("10_first", 0o755, 1), ("60_last", 0o755, 0), ("20_backup~", 0o644, 2)):
        (folder / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (folder / name).chmod(mode)
    with pytest.raises(HookError):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    assert [(name, status) for name, status, _ in vdsm.hooks.log] == [
        ("10_first", 1),
        ("50_vfmigrate", 0),
        ("60_last", 0),
    ]


def test_no_later_hook_runs_after_a_refusal(vdsm: Vdsm) -> None:
    later = vdsm.script("before_device_create").with_name("60_last")
    later.write_text("#!/bin/sh\necho other >&2\nexit 1\n")
    later.chmod(0o755)
    with pytest.raises(HookError, match="no pool 'absent'"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={**VFIO, "vfmigrate_pool": "absent"})


def test_the_plugin_is_installed_at_each_hook_point(installed: Path) -> None:
    hooks = installed / "usr/libexec/vdsm/hooks"
    assert {path.name for path in hooks.iterdir()} == set(POINTS) - {"before_vm_destroy"}
    executable = {
        path.name for path in installed.rglob("*") if path.is_file() and path.stat().st_mode & 0o111
    }
    assert executable == {"50_vfmigrate"}
    (drop_in,) = (installed / "etc/vfmigrate/vfmigrate.conf.d").iterdir()
    main = drop_in.parent.with_name("vfmigrate.conf")
    assert configuration.load(main).clients == {"vdsm"}


@pytest.mark.parametrize("point", POINTS)
def test_the_script_imports_nothing_when_there_is_nothing_to_do(vdsm: Vdsm, point: str) -> None:
    vdsm.stop()
    (vdsm.directory / "sock").unlink()
    data = vdsm.directory / "data"
    data.write_text(BRIDGE)
    command = ["/usr/bin/python3", "-IS", "-X", "importtime"]
    environment = {"_hook_domxml": str(data)}
    names = []
    for program in (["-c", "import posix"], [str(vdsm.script(point))]):
        done = subprocess.run(
            [*command, *program], env=environment, capture_output=True, text=True, check=True
        )
        names.append({line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines()})
    assert names[1] <= names[0]


@pytest.mark.parametrize("point", [point for point in POINTS if point != "before_vm_destroy"])
def test_the_self_check_names_what_is_missing(vdsm: Vdsm, point: str) -> None:
    script = str(vdsm.script(point))

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *words], user=65534, capture_output=True, text=True, check=False, cwd="/"
        )

    done = check("--test")
    assert done.returncode == 0
    assert 'managed="yes"' in done.stdout
    assert done.stdout.endswith("pool data: 4 of 4 VFs free\n")
    assert check("--help").returncode == 0
    assert check("--nonsense").returncode == 1
    vdsm.stop()
    assert "vfmigrated does not answer" in check("-t").stdout


def test_an_invalid_answer_is_an_error(vdsm: Vdsm) -> None:
    vdsm.stop()
    listener = listening_socket(vdsm.directory / "sock")

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            stream.readline()
            connection.sendall(b"[]\n")

    server = threading.Thread(target=serve)
    server.start()
    with pytest.raises(HookError, match="is not vfmigrated"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    server.join(10)
    listener.close()


def test_an_unexpected_exception_is_one_line_with_its_place(vdsm: Vdsm) -> None:
    module = vdsm.directory / "modules" / "vfmigrate_vdsm" / "vnic.py"
    module.write_text(
        module.read_text() + "\n\ndef convert(interface, address):\n    raise KeyError(address)\n"
    )
    with pytest.raises(HookError, match=r"^vfmigrate: the plugin has a bug: KeyError at .*vnic.py:\d+\n$"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
