# SPDX-License-Identifier: GPL-2.0-or-later
"""The built packages on a host with the oldest Python and libraries. `make matrix` runs this, `make test` does not.

They are installed without their dependencies: Debian 11 has the Python, lxml and pyroute2 of Enterprise Linux 9, but an
older libvirt and Open vSwitch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.card import SWITCHDEV
from tests.integration.hosts import Host, two_hosts
from tests.integration.product import CONFIGURATION
from tests.testbed import kernel, packages
from tests.testbed.root import floor_root

PF = "0000:01:00.0"
SHIM = "/usr/local/lib/genl_shim.so"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host of that root with a card, Open vSwitch, libvirt and the packages."""
    place = tmp_path_factory.mktemp("floor")
    built = packages.built(tmp_path_factory.mktemp("packages"))
    with two_hosts((floor_root(), floor_root()), place) as (host, _other, _fabric), host.card(PF) as card:
        for name in packages.FOR_A_HOST:
            shutil.copy(built[name], host.path("/srv"))
        host.run("sh", "-c", "rpm -U --nodeps /srv/*.rpm")
        # built with that root's compiler, since its C library is older than this machine's
        sources = tmp_path_factory.mktemp("shim")
        shutil.copy(Path(kernel.__file__).parents[1] / "fakes/genl_shim.c", sources)
        build = ("gcc", "-O2", "-shared", "-fPIC", "-o", "/mnt/genl_shim.so", "/mnt/genl_shim.c", "-ldl")
        kernel.in_root(floor_root(), sources, *build, log=sources / "log")
        shutil.copy(sources / "genl_shim.so", host.path(SHIM))
        host.start_openvswitch()
        host.start_libvirtd()
        (host.path(f"/sys/bus/pci/devices/{PF}") / "sriov_numvfs").write_text("2")
        card.set_eswitch_mode(PF, SWITCHDEV)
        yield host


@pytest.mark.parametrize(
    "words", [("vfmigrate", "--version"), ("vfmigrate", "migrate", "--help"), ("vfmigrated", "--check")]
)
def test_the_programs_start(host: Host, words: tuple[str, ...]) -> None:
    assert host.run(*words).stderr == ""


def test_the_daemon_shows_the_card_and_the_bridge(host: Host) -> None:
    text = CONFIGURATION.format(
        pf=PF,
        bridge="br-data",
        claim_timeout=120,
        reconcile_interval=3600,
        pool="data",
        more="",
        daemon="",
        libvirt="",
    )
    host.write("/etc/vfmigrate/vfmigrate.conf", text)
    host.path("/run/vfmigrate").mkdir(exist_ok=True)
    log = host.place / "log"
    daemon = host.spawn("vfmigrated", env={"LD_PRELOAD": SHIM, "FAKE_GENL": "/run/slot/devlink"}, log=log)
    try:
        host.run("sh", "-c", "until [ -S /run/vfmigrate/vfmigrated.sock ]; do sleep 0.1; done")
        status = json.loads(host.run("vfmigrate", "status", "--json").stdout)
        host.run("vfmigrate", "reconcile")
    finally:
        daemon.terminate()
        daemon.wait()
    print(json.dumps(status, indent=2), log.read_text())
    assert status["problems"] == []
