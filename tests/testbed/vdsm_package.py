# SPDX-License-Identifier: GPL-2.0-or-later
"""A package called vdsm with what hooks need of it, for a test host that has no vdsm.

User vdsm, the directories of the hook points, the module `hooking`, a neighbour that uses it, and a hook of libvirt's
that does to arriving guests what vdsm's does. Our own package is installed beside it, its dependencies resolved.
"""

from __future__ import annotations

from pathlib import Path

from tests.testbed import packages, product
from tests.testbed.host import Host
from tests.testbed.run import run

FILES = Path(__file__).with_name("vdsm_standin")
PLUGIN = "vdsm-hook-vfmigrate"
USER = "vdsm"
HOOKS = "/usr/libexec/vdsm/hooks"
MODULE = "/usr/share/vdsm/hook"
#: guests whose arrival vdsm's hook of libvirt has seen, a line each
ARRIVALS = "/run/vdsm-libvirt-hook"
#: the hook points whose directories are vdsm's, as far as our package has something in them
POINTS = (
    "before_device_create",
    "before_vm_start",
    "before_nic_hotplug",
    "after_nic_hotplug",
    "after_nic_hotplug_fail",
    "after_nic_hotunplug",
    "before_vm_migrate_source",
    "before_vm_migrate_destination",
    "after_vm_destroy",
    "after_get_caps",
    "after_get_stats",
)
#: points at which a hook of vdsm's own is beside ours
NEIGHBOURED = (
    "before_device_create",
    "before_vm_start",
    "before_vm_migrate_source",
    "before_vm_migrate_destination",
)

SPEC = f"""\
%global __os_install_post %{{nil}}
Name: vdsm
Version: 4.50
Release: 1
Summary: What hooks need of vdsm, on a test host
License: none
BuildArch: noarch
Requires: /usr/bin/python3
%description
In place of vdsm, which test hosts do not have.
%install
install -Dpm 0755 {FILES}/libvirt-hook %{{buildroot}}/etc/libvirt/hooks/qemu
install -Dpm 0644 {FILES}/hooking.py %{{buildroot}}{MODULE}/hooking.py
for point in {" ".join(POINTS)}; do
    install -d %{{buildroot}}{HOOKS}/$point
done
for point in {" ".join(NEIGHBOURED)}; do
    install -Dpm 0755 {FILES}/neighbour %{{buildroot}}{HOOKS}/$point/10_neighbour
done
%pre
useradd --system --no-create-home --shell /bin/false --gid kvm {USER}
%postun
userdel {USER}
rm -f {ARRIVALS}
%files
/etc/libvirt/hooks/qemu
/usr/share/vdsm
/usr/libexec/vdsm
"""


def stage() -> str:
    """Build the package where both hosts find it; returns the file as they see it."""
    folder = product.BUILT / "vdsm"
    folder.mkdir(exist_ok=True)
    spec = folder / "vdsm.spec"
    spec.write_text(SPEC)
    run("rpmbuild", "-bb", "--define", f"_topdir {folder}", "--define", f"_rpmdir {folder}", spec)
    (built,) = folder.glob("**/vdsm-*.rpm")
    return str(product.REPOSITORY / built.relative_to(product.BUILT))


def install(host: Host, vdsm: str) -> None:
    """Install vdsm's stand-in and our plugin."""
    plugin = packages.by_name(product.BUILT)[PLUGIN]
    product.rpm(host, "-U", vdsm, str(product.REPOSITORY / plugin.name))
    # libvirt looks for hooks when it starts or reloads, and there was none before
    host.run("systemctl reload libvirtd.service")


def remove(host: Host) -> None:
    """Remove both."""
    product.remove(host, (PLUGIN, "vdsm"))
    host.run("systemctl reload libvirtd.service")
