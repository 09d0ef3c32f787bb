# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that the daemon, vfmigrate-pci and the hook do while guests come and go, compared with the SELinux policy.

The programs run under strace on namespace hosts, without SELinux; each access that strace saw must be one that the
policy allows the program's domain (selinux_policy.py). What no system call shows is asked for by hand: capabilities,
and messages over D-Bus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional

import pytest

from tests.integration import accesses, selinux_policy
from tests.integration.accesses import SELF, Access
from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair, start_products, started_pair
from tests.integration.product import HOOK
from tests.testbed import apt, root
from tests.testbed.run import run

pytestmark = pytest.mark.hosts

TRACE = "/run/trace"
MAC = "52:54:00:00:00:02"

#: the domain that listens at a socket; of several, the first that the policy has
LISTENERS = (
    ("/run/openvswitch/", ("openvswitch_t",)),
    ("/run/libvirt/", ("virtqemud_t", "virtd_t")),
    ("/run/vfmigrate/vfmigrated.sock", ("vfmigrated_t",)),
    ("/run/vfmigrate/pci.sock", ("vfmigrate_pci_t",)),
    ("/run/dbus/", ("system_dbusd_t",)),
    ("/run/systemd/journal/", ("syslogd_t",)),
)
#: whose /proc is looked at: QEMU, a service, systemd, a user's shell, a kernel thread
PROCESSES = ("svirt_t", "virtd_t", "init_t", "sshd_t", "unconfined_t", "kernel_t")
#: parts of the tests' hosts that a host of users has not, and what there is in their place
STAND_INS = (
    (r"/usr/local/lib/\w+_shim\.so", None),
    (r"/run/trace(\.log|/.*)?", None),
    (r"/run/slot/devlink", "netlink_generic_socket"),
    (r"/run/slot/.*", None),
    (r"/run/vfmigrate/log", None),
)
#: what a program tries, is denied and does without, and why
DONE_WITHOUT = {
    ("vfmigrated_t", "/root/.inputrc"): "a library loads readline; the unit hides /root",
    ("vfmigrate_pci_t", "/run/vfmigrate/pci.sock"): "systemd makes the socket",
    ("vfmigrate_pci_t", "/run/vfmigrate"): "systemd makes the directory",
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started_pair(root.el_host_root(), tmp_path_factory.mktemp("traced")) as pair:
        yield pair


@pytest.fixture(scope="module")
def traced(hosts: Pair) -> Node:
    """A host on which all three programs have done all that they do, under strace."""
    hosts.reset()
    for node in (hosts.a, hosts.b):
        node.host.path(TRACE).mkdir(exist_ok=True)
        # as the packages of Fedora and EL have it: nothing is compiled while a program runs
        node.host.run("python3", "-m", "compileall", "-q", "/usr/lib/python3/dist-packages/vfmigrate")
        node.product.program = (*accesses.COMMAND, f"{TRACE}/vfmigrated", "vfmigrated")
    start_products(hosts)
    exercise(hosts)
    for node in (hosts.a, hosts.b):
        node.product.stop()
        node.product.program = ("vfmigrated",)
    return hosts.a


def exercise(hosts: Pair) -> None:
    """Have the daemon of host A do everything: guests there and back, all requests, provisioning, a reload."""
    a, b = hosts.a, hosts.b
    hook = a.host.path(HOOK).read_text()
    a.host.write("/usr/local/lib/hook", hook, 0o755)
    traced_hook = " ".join((*accesses.COMMAND, f"{TRACE}/hook.$$", "/usr/local/lib/hook"))
    a.host.write(HOOK, f'#!/bin/sh\nexec {traced_hook} "$@"\n', 0o755)
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    a.wait_until_settled()
    for source, target in ((a, b), (b, a)):
        outcome = source.migrate("g", target)
        assert outcome.status == 0, outcome.error
        target.wait_until_settled()
    for words in (
        ("vfmigrate", "status"),
        ("vfmigrate", "check", "g", "qemu+tcp://host-b/system"),
        ("vfmigrate", "reconcile"),
    ):
        a.host.run(*words, check=False)
    a.host.virsh("destroy", "g")
    a.host.run("vfmigrate", "provision", check=False)
    a.product.reload()
    wait_for("the claims to be gone", lambda: not a.product.claims())
    read_configuration_space(a)


def read_configuration_space(node: Node) -> None:
    """Have vfmigrate-pci read a VF's configuration space, and run the real mstconfig for the PF."""
    package = apt.download("mstflint", apt.candidates(["mstflint"])["mstflint"])
    run("dpkg-deb", "--extract", package, node.host.path("/"))
    command = (*accesses.COMMAND, f"{TRACE}/vfmigrate-pci", "/usr/libexec/vfmigrate-pci")
    service = node.host.spawn(*command, log=node.host.path("/run/trace.log"))
    socket = node.host.path("/run/vfmigrate/pci.sock")
    wait_for("vfmigrate-pci to listen", socket.exists)
    program = (
        "from vfmigrate.daemon.pci_reader import PciReader; from vfmigrate.model.pci import PciAddress\n"
        "import contextlib, sys; from vfmigrate.errors import VfmigrateError\n"
        "reader = PciReader(); vf, pf = map(PciAddress.parse, sys.argv[1:])\n"
        "reader.config_spaces([vf])\n"
        "with contextlib.suppress(VfmigrateError): reader.migration_setting(pf)\n"
    )
    node.host.run("python3", "-c", program, node.vf(1), node.pf)
    node.host.run("pkill", "-x", "vfmigrate-pci", check=False)
    service.wait(timeout=30)


def seen(node: Node, program: str) -> set[Access]:
    """What a program did, without what only a test host has."""
    found: set[Access] = set()
    for file in node.host.path(TRACE).glob(f"{program}*"):
        if program != "vfmigrated" or file.name == "vfmigrated":
            found |= accesses.read(file.read_text(errors="replace"))
    return {each for each in map(_in_place, found) if each is not None}


def _in_place(access: Access) -> Optional[Access]:
    for pattern, instead in STAND_INS:
        if re.fullmatch(pattern, access.path):
            return Access(SELF, instead, "create") if instead is not None else None
    # of the link /var/run
    return Access(access.path.replace("/var/run/", "/run/", 1), access.kind, access.permission)


def denials(domain: str, found: Iterable[Access], host: Path) -> list[str]:
    """The accesses that the policy denies a domain, each as the rule that would allow it."""
    rules = selinux_policy.rules(domain)
    paths = _Labels(domain, found, host)
    denied = set()
    for access in found:
        for target, kind, permission in paths.checked(access):
            if permission not in rules.allowed.get(f"{target} {kind}", ()):
                where = access.path or "itself"
                if (domain, where) not in DONE_WITHOUT:
                    denied.add(f"allow {domain} {target}:{kind} {permission};  # {where}")
    return sorted(denied)


class _Labels:
    """The types of the objects that a program touched."""

    def __init__(self, domain: str, found: Iterable[Access], host: Path) -> None:
        self._domain = domain
        self._host = host
        by_kind: dict[str, set[str]] = {}
        for access in found:
            if access.path != SELF:
                by_kind.setdefault(self._kind(access), set()).add(access.path)
                by_kind.setdefault("dir", set()).update(_above(access.path))
        self._types = {kind: selinux_policy.labels(paths, kind) for kind, paths in by_kind.items()}

    def _kind(self, access: Access) -> str:
        """The class of an object of which a call told nothing: as it is on the host now."""
        if access.kind not in {"?", "file"} or "socket" in access.kind:
            return "sock_file" if access.kind.endswith("_socket") else access.kind
        try:
            place = self._host / access.path.lstrip("/")
            return "dir" if place.is_dir() and not place.is_symlink() else "file"
        except OSError:
            return "file"

    def checked(self, access: Access) -> Iterator[tuple[str, str, str]]:
        """Type, class and permission of all that an access needs, the way to the object included."""
        if access.path == SELF:
            yield self._domain, access.kind, access.permission
            return
        for directory in _above(access.path):
            for target in self.type_of(directory, "dir"):
                yield target, "dir", "search"
        if access.kind.endswith("_socket"):
            yield self._listener(access.path), access.kind, access.permission
            return
        kind = self._kind(access)
        if access.permission == "search" and access.kind == "?":
            return
        for target in self.type_of(access.path, kind):
            yield target, kind, access.permission

    def _listener(self, path: str) -> str:
        for prefix, domains in LISTENERS:
            if path.startswith(prefix):
                return next(each for each in domains if selinux_policy.is_type(each))
        return f"unknown listener at {path}"

    def type_of(self, path: str, kind: str) -> list[str]:
        """The types that an object can have: several for a process whose domain is not known."""
        process = re.match(r"/proc/(\d+|self|thread-self)(/|$)", path)
        if process:
            if process[1] in {"self", "thread-self"}:
                return [self._domain]
            return [each for each in PROCESSES if selinux_policy.is_type(each)]
        for filesystem, mount in (("proc", "/proc"), ("sysfs", "/sys")):
            if path == mount or path.startswith(f"{mount}/"):
                return [selinux_policy.generated_type(filesystem, path[len(mount) :] or "/")]
        made = selinux_policy.rules(self._domain).made.get(f"tmp_t {kind}")
        if path.startswith("/tmp/") and made is not None:
            return [made]
        found = self._types.get(kind, {}).get(path) or selinux_policy.labels([path], kind).get(path, "")
        return [found if found != "<<none>>" else "default_t"]


def _above(path: str) -> list[str]:
    """The directories on the way to a path."""
    parts = path.strip("/").split("/")[:-1]
    return ["/", *("/" + "/".join(parts[: count + 1]) for count in range(len(parts)))]


@pytest.mark.parametrize(
    ("domain", "program"),
    [("vfmigrated_t", "vfmigrated"), ("vfmigrate_pci_t", "vfmigrate-pci"), ("vfmigrate_hook_t", "hook.")],
)
def test_the_policy_allows_what_a_program_does(traced: Node, domain: str, program: str) -> None:
    found = seen(traced, program)
    assert len(found) > 30  # it was traced
    denied = denials(domain, found, traced.host.path("/"))
    assert denied == [], "\n".join(denied)


def test_systemd_may_be_asked_to_load_a_module_and_to_restart_open_vswitch() -> None:
    allowed = selinux_policy.rules("vfmigrated_t").allowed
    units = ("/usr/lib/systemd/system/modprobe@.service", "/usr/lib/systemd/system/ovs-vswitchd.service")
    for unit in selinux_policy.labels(units, "file").values():
        assert allowed[f"{unit} service"] >= {"start", "status"}
    assert "send_msg" in allowed["init_t dbus"]


def test_planted_accesses_are_denied() -> None:
    planted = {
        Access("/etc/shadow", "file", "read"),
        Access("/root/.ssh/id", "file", "write"),
        Access(SELF, "tcp_socket", "create"),
    }
    told = denials("vfmigrate_hook_t", planted, Path("/"))
    assert [line for line in told if "shadow_t:file read" in line]
    assert [line for line in told if "tcp_socket create" in line]
