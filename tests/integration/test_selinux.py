# SPDX-License-Identifier: GPL-2.0-or-later
"""The SELinux module in Debian's whole policy: that the rules allow no more than they should.

That they suffice is tested in test_selinux_accesses.py. Nothing here runs under SELinux (docs/packaging.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import selinux_policy
from tests.integration.selinux_policy import SOURCES
from tests.testbed.run import run


@pytest.fixture(scope="module")
def policy() -> Path:
    """A policy with vfmigrate's module, as the kernel would load it."""
    return selinux_policy.policy()


def rules(policy: Path, *query: str) -> set[str]:
    """The rules that sesearch finds, one a line; conditional ones with their condition."""
    return {line.strip() for line in run("sesearch", *query, policy).splitlines() if line.strip()}


def allowed(policy: Path, source: str, target: str, kind: str) -> set[str]:
    """The permissions that a domain has on a type, by rules that name the domain itself."""
    found: set[str] = set()
    for rule in rules(policy, "-A", "-s", source, "-ds", "-t", target, "-c", kind):
        names = rule.split(f":{kind}", 1)[1].split(";")[0]
        found.update(names.replace("{", " ").replace("}", " ").split())
    return found


def test_libvirt_runs_the_hook_in_a_domain_of_its_own(policy: Path) -> None:
    assert rules(policy, "-T", "-t", "vfmigrate_hook_exec_t") == {
        "type_transition virtd_t vfmigrate_hook_exec_t:process vfmigrate_hook_t;"
    }
    assert "transition" in allowed(policy, "virtd_t", "vfmigrate_hook_t", "process")


def test_systemd_starts_the_daemon_in_a_domain_of_its_own(policy: Path) -> None:
    transitions = rules(policy, "-T", "-s", "init_t", "-t", "vfmigrated_exec_t")
    assert transitions == {"type_transition init_t vfmigrated_exec_t:process vfmigrated_t;"}
    assert "nnp_transition" in allowed(policy, "init_t", "vfmigrated_t", "process2")


def test_only_hook_and_libvirt_may_connect_to_the_daemon(policy: Path) -> None:
    found = rules(policy, "-A", "-t", "vfmigrated_t", "-dt", "-c", "unix_stream_socket", "-p", "connectto")
    sources = {rule.split()[1] for rule in found}
    assert sources == {"vfmigrate_hook_t", "virtd_t", "vfmigrated_t"}


def test_the_hook_writes_nothing_but_pipes_and_the_socket(policy: Path) -> None:
    own = {"vfmigrate_hook_t"}
    found = rules(policy, "-A", "-s", "vfmigrate_hook_t", "-ds", "-p", "write")
    targets = {rule.split()[2].split(":")[0] for rule in found} - own
    assert targets == {"virtd_t", "vfmigrated_var_run_t"}
    assert allowed(policy, "vfmigrate_hook_t", "virtd_t", "fifo_file") >= {"read", "write"}
    assert not rules(policy, "-A", "-s", "vfmigrate_hook_t", "-ds", "-c", "capability")


def test_the_daemon_may_use_sysfs_netlink_open_vswitch_and_libvirt(policy: Path) -> None:
    assert "write" in allowed(policy, "vfmigrated_t", "sysfs_t", "file")
    assert allowed(policy, "vfmigrated_t", "vfio_device_t", "chr_file") >= {"open", "read", "write", "ioctl"}
    assert "connectto" in allowed(policy, "vfmigrated_t", "openvswitch_t", "unix_stream_socket")
    assert "connectto" in allowed(policy, "vfmigrated_t", "virtd_t", "unix_stream_socket")
    assert "create" in allowed(policy, "vfmigrated_t", "vfmigrated_t", "netlink_generic_socket")
    assert "nlmsg_write" in allowed(policy, "vfmigrated_t", "vfmigrated_t", "netlink_route_socket")
    assert allowed(policy, "vfmigrated_t", "vfmigrated_var_run_t", "file") >= {"create", "rename", "unlink"}


@pytest.mark.parametrize(
    ("service", "domain"), [("vfmigrated", "vfmigrated_t"), ("vfmigrate-pci", "vfmigrate_pci_t")]
)
def test_a_service_has_the_capabilities_of_its_unit_and_no_others(
    policy: Path, service: str, domain: str
) -> None:
    unit = (SOURCES.parents[1] / f"systemd/{service}.service").read_text()
    bounding = next(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet="))
    named = {name.lower()[len("cap_") :] for name in bounding.split("=")[1].split()}
    assert allowed(policy, domain, domain, "capability") == named


def test_the_daemon_writes_no_file_but_sysfs_and_its_own(policy: Path) -> None:
    found = rules(policy, "-A", "-s", "vfmigrated_t", "-ds", "-c", "file", "-p", "write")
    targets = {rule.split()[2].split(":")[0] for rule in found}
    assert targets == {"sysfs_t", "vfmigrated_var_run_t", "vfmigrated_t"}


def test_the_reader_of_configuration_space_writes_only_sysfs_and_lock_files_and_is_reached_by_the_daemon_only(
    policy: Path,
) -> None:
    found = rules(policy, "-A", "-s", "vfmigrate_pci_t", "-ds", "-c", "file", "-p", "write")
    assert {rule.split()[2].split(":")[0] for rule in found} == {
        "sysfs_t",
        "vfmigrate_pci_t",
        "vfmigrate_pci_tmp_t",
    }
    reaching = rules(
        policy, "-A", "-t", "vfmigrate_pci_t", "-dt", "-c", "unix_stream_socket", "-p", "connectto"
    )
    assert {rule.split()[1] for rule in reaching} == {"vfmigrated_t"}
