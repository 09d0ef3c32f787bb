# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages on a running host: scriptlets under systemd, with libvirtd and a guest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import wait_for
from tests.integration.systemd_host import SystemdHost, systemd_host
from tests.testbed import ansible, images, packages
from tests.testbed.root import HOST_PACKAGES

GUEST = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><memballoon model='none'/>{interface}</devices>
</domain>
"""
VF = (
    "<interface type='hostdev'>"
    "<source><address type='pci' domain='0' bus='1' slot='0' function='1'/></source>"
    "</interface>"
)


class Site:
    """The host, and a directory of package files on it."""

    def __init__(self, host: SystemdHost) -> None:
        self.host = host

    def files(self, release: str) -> list[str]:
        folder = packages.by_name(self.host.path(f"/srv/{release}"))
        return [f"/srv/{release}/{folder[name].name}" for name in packages.FOR_A_HOST]

    def install(self, release: str) -> None:
        self.host.run("rpm", "-U", *self.files(release))

    def remove(self) -> None:
        self.host.run("rpm", "-e", *packages.FOR_A_HOST)

    def create(self, name: str, interface: str = "") -> str:
        """Start a guest; returns virsh's errors."""
        self.host.path(f"/run/{name}.xml").write_text(GUEST.format(name=name, interface=interface))
        return self.host.run("virsh", "create", f"/run/{name}.xml", check=False).stderr

    def untouched(self) -> tuple[str, str]:
        """The process IDs of libvirtd and of the guest."""
        pid = self.host.path("/run/libvirt/qemu/bystander.pid").read_text()
        return self.host.show("libvirtd.service", "MainPID"), pid


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("live")
    (place / "host").mkdir()
    built = packages.build(place / "now")
    packages.rebuild(built["source"], place / "next", "--define", "dist .deb2")
    status = (images.host_root() / "var/lib/dpkg/status").read_text()
    stand_in = packages.stand_in(packages.versions(status), HOST_PACKAGES, place / "stand-in")
    with systemd_host(images.host_root(), place / "host") as host:
        for release in ("now", "next"):
            shutil.copytree(place / release, host.path(f"/srv/{release}"))
        shutil.copy(stand_in, host.path("/srv"))
        host.run("rpm", "-U", f"/srv/{stand_in.name}")
        site = Site(host)
        assert not site.create("bystander")
        yield site


@pytest.fixture
def installed(site: Site) -> Iterator[Site]:
    site.install("now")
    yield site
    site.remove()


def test_installation_starts_the_socket_and_reloads_libvirt(site: Site) -> None:
    before = site.untouched()
    site.install("now")
    try:
        assert site.host.active("vfmigrated.socket")
        assert site.untouched() == before
        site.host.run("systemctl", "stop", "vfmigrated.socket", "vfmigrated.service")
        # libvirt runs the hook: the error is the hook's
        assert "vfmigrate: vfmigrated does not answer" in site.create("newcomer", VF)
    finally:
        site.remove()


def test_the_hook_is_answered_by_a_daemon_that_the_socket_starts(installed: Site) -> None:
    assert not installed.host.active("vfmigrated.service")
    assert "vfmigrate" not in installed.create("newcomer", VF)  # in no pool, so the hook accepts it
    assert installed.host.active("vfmigrated.service")


def test_a_daemon_that_stands_still_is_restarted_and_its_successor_answers_the_hook(installed: Site) -> None:
    host = installed.host
    drop_in = host.path("/etc/systemd/system/vfmigrated.service.d")
    drop_in.mkdir(parents=True)
    (drop_in / "soon.conf").write_text("[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    try:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", "vfmigrated.service")
        daemon = host.show("vfmigrated.service", "MainPID")
        kept = host.path("/run/vfmigrate/claims/kept")
        kept.touch()
        host.run("kill", "-STOP", daemon)
        # the hook has its answer by the next daemon, within the time that it waits for one
        assert "vfmigrate" not in installed.create("newcomer", VF)
        assert host.show("vfmigrated.service", "MainPID") not in ("0", daemon)
        assert kept.exists()
    finally:
        shutil.rmtree(drop_in)
        host.run("systemctl", "daemon-reload")


def test_the_daemon_sees_what_it_needs_in_spite_of_its_unit(installed: Site) -> None:
    host = installed.host
    host.path("/usr/lib/modules/x").mkdir(parents=True, exist_ok=True)
    host.run("systemctl", "restart", "vfmigrated.service")
    daemon = host.show("vfmigrated.service", "MainPID")
    capabilities = "-all,+net_admin,+sys_ptrace,+dac_read_search,+dac_override"
    inside = (
        *("nsenter", f"--target={daemon}", "--mount", "--root", "--wd", "--"),
        *("setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all"),
    )
    effective = host.run(*inside, "grep", "CapEff", "/proc/self/status").stdout
    assert effective == host.run("grep", "CapEff", f"/proc/{daemon}/status").stdout
    # open files of another user's process
    host.run("systemd-run", "--uid=nobody", "--unit=sleeper", "sleep", "600")
    try:
        sleeper = host.show("sleeper.service", "MainPID")
        assert "0" in host.run(*inside, "ls", f"/proc/{sleeper}/fd").stdout.split()
    finally:
        host.run("systemctl", "stop", "sleeper.service")
    # the modules of the kernel, at another place than their own
    assert "x" in host.run(*inside, "ls", "/run/vfmigrate/modules").stdout.split()
    assert host.run(*inside, "ls", "/usr/lib/modules", check=False).stdout == ""


def test_another_process_reads_configuration_space_for_the_daemon(installed: Site) -> None:
    host = installed.host
    host.run("systemctl", "start", "vfmigrated.service")
    assert host.active("vfmigrate-pci.socket")
    read = (
        "from vfmigrate.daemon.pci_reader import PciReader; from vfmigrate.model.pci import PciAddress; import sys; "
        "print(*map(len, PciReader().config_spaces([PciAddress.parse(sys.argv[1])]).values()))"
    )
    device = next(Path("/sys/bus/pci/devices").iterdir()).name
    assert host.run("python3", "-c", read, device).stdout == "256\n"
    assert host.active("vfmigrate-pci.service")
    refused = host.run(
        "setpriv", "--reuid=nobody", "--clear-groups", "python3", "-c", read, device, check=False
    )
    assert (refused.returncode, "Permission denied" in refused.stderr) == (1, True)


CONFIGURATION = "/etc/vfmigrate/vfmigrate.conf.d/site.conf"


def test_a_reload_takes_over_a_valid_configuration_only(installed: Site) -> None:
    host = installed.host
    host.run("systemctl", "start", "vfmigrated.service")
    daemon = host.show("vfmigrated.service", "MainPID")
    file = host.path(CONFIGURATION)
    try:
        file.write_text("[daemon]\nreaders = nobody\n")
        assert "systemctl reload vfmigrated" in host.run("vfmigrate", "status").stdout
        host.run("systemctl", "reload", "vfmigrated")
        wait_for(
            "the new reader",
            lambda: host.run("setpriv", "--reuid=nobody", "vfmigrate", "status").returncode == 0,
        )
        assert "systemctl reload" not in host.run("vfmigrate", "status").stdout

        file.write_text("[daemon]\nreaders = nobody\nclaim_timeout = soon\n")
        assert host.run("systemctl", "reload", "vfmigrated", check=False).returncode != 0
        told = host.run("journalctl", "-u", "vfmigrated", "--no-pager").stdout
        assert f"{CONFIGURATION}: [daemon] claim_timeout: 'soon' is not a number" in told
        assert host.run("setpriv", "--reuid=nobody", "vfmigrate", "status").returncode == 0
        assert host.show("vfmigrated.service", "MainPID") == daemon
    finally:
        file.unlink()


def test_a_broken_configuration_is_reported_once_at_the_start(installed: Site) -> None:
    host = installed.host
    host.run("systemctl", "stop", "vfmigrated.service")
    file = host.path(CONFIGURATION)
    file.write_text("[daemon]\nclaim_timeout = soon\n")
    try:
        assert host.run("systemctl", "start", "vfmigrated.service", check=False).returncode != 0
        time.sleep(2.5)  # systemd would start it again after one second
        assert host.show("vfmigrated.service", "NRestarts") == "0"
        assert host.show("vfmigrated.service", "ExecMainStatus") == "78"
        told = host.run("journalctl", "-u", "vfmigrated", "--no-pager", "-n", "20").stdout
        assert "vfmigrated does not start; check it with: vfmigrated --check" in told
    finally:
        file.unlink()
        host.run("systemctl", "reset-failed", "vfmigrated.service", "vfmigrated.socket")
        host.run("systemctl", "start", "vfmigrated.socket")


def test_an_upgrade_restarts_the_daemon_and_nothing_else(site: Site) -> None:
    site.install("now")
    try:
        site.host.run("systemctl", "start", "vfmigrated.service")
        before = site.untouched()
        daemon = site.host.show("vfmigrated.service", "MainPID")
        listening = site.host.show("vfmigrated.socket", "ActiveEnterTimestampMonotonic")
        site.install("next")
        assert site.host.active("vfmigrated.service")
        assert site.host.show("vfmigrated.service", "MainPID") != daemon
        assert site.host.show("vfmigrated.socket", "ActiveEnterTimestampMonotonic") == listening
        assert site.untouched() == before
    finally:
        site.remove()


def test_removing_the_packages_leaves_nothing(site: Site) -> None:
    site.install("now")
    site.host.run("systemctl", "start", "vfmigrated.service")
    before = site.untouched()
    site.remove()
    assert site.untouched() == before
    apart = "-path /srv -o -path /var/lib/rpm -o -path /var/log"
    find = f"find / -xdev \\( {apart} \\) -prune -o -name '*vfmigrate*' -print"
    assert site.host.run("sh", "-c", find).stdout == ""
    assert site.host.run("find", "/run", "-name", "*vfmigrate*").stdout == ""
    assert (
        site.host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "vfmigrate*").stdout == ""
    )


def test_the_ansible_role_sets_a_host_up_once(site: Site, tmp_path: Path) -> None:
    keys = site.host.path("/root/.ssh")
    keys.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(images.ssh_key() / "id.pub", keys / "authorized_keys")
    key = tmp_path / "id"
    shutil.copy(images.ssh_key() / "id", key)
    key.chmod(0o600)
    config = tmp_path / "ssh.config"
    config.write_text(
        f"Host host-s\n    User root\n    IdentityFile {key}\n    StrictHostKeyChecking no\n"
        "    UserKnownHostsFile /dev/null\n    LogLevel ERROR\n"
        f"    ProxyCommand {' '.join(site.host.enter())} /usr/sbin/sshd -i\n"
    )
    variables = {
        "vfmigrate_package_files": site.files("now"),
        "vfmigrate_pools": [
            {"name": "data", "pf": ["0000:e1:00.0"], "bridge": "br-data", "vlans": ["42-43"]}
        ],
        "vfmigrate_provision": False,
    }
    try:
        first = ansible.apply(tmp_path, "host-s", config, variables)
        assert first["changed"] > 0
        assert site.host.active("vfmigrated.socket", "vfmigrated.service")
        assert "data" in site.host.run("vfmigrate", "status").stdout
        second = ansible.apply(tmp_path, "host-s", config, variables)
        assert (second["changed"], second["failed"]) == (0, 0)
    finally:
        site.remove()
        shutil.rmtree(site.host.path("/etc/vfmigrate"), ignore_errors=True)
