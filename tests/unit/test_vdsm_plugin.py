# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's script as vdsm runs it: another user, vdsm's environment and files, a daemon on a host in memory."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.fakes.doors import MemoryHost
from tests.fakes.vdsm_hooks import HookError, VdsmHooks
from vfmigrate import claims, config, protocol
from vfmigrate.claims import ClaimStore
from vfmigrate.config import Config, Pool
from vfmigrate.converge import Converger
from vfmigrate.journal import Journal
from vfmigrate.pci import PciAddress
from vfmigrate.promises import Promises
from vfmigrate.server import Server, listening_socket

PLUGIN = Path(__file__).parents[2] / "vdsm_plugin"
POINTS = (
    "before_device_create",
    "before_vm_start",
    "before_nic_hotplug",
    "after_nic_hotplug",
    "after_nic_hotplug_fail",
    "after_nic_hotunplug",
    "before_vm_migrate_source",
    "before_vm_migrate_destination",
    "before_vm_destroy",
    "after_vm_destroy",
    "after_get_caps",
    "after_get_stats",
)
POOL = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlan=42, vlans=frozenset({43}), max_migrating=2)
VM = "00000000-0000-4000-8000-0000000000aa"
MAC = "56:6f:1a:2b:00:02"
VFIO = {"vfmigrate_strategy": "vfio", "vfmigrate_pool": "data"}

# What vdsm hands over of a vNIC on a bridge (vdsm: vmdevices/network.py), with everything it may hold.
BRIDGE = """<?xml version='1.0' encoding='UTF-8'?>
<interface type="bridge">
    <mac address="56:6F:1A:2B:00:02" />
    <model type="virtio" />
    <source bridge="ovirtmgmt" />
    <mtu size="9000" />
    <port isolated="yes" />
    <filterref filter="vdsm-no-mac-spoofing" />
    <link state="up" />
    <boot order="2" />
    <driver name="vhost" queues="4" />
    <bandwidth><inbound average="1000" /></bandwidth>
    <alias name="ua-7f2d4f0e-1111-4000-8000-000000000001" />
    <address bus="0x02" domain="0x0000" function="0x0" slot="0x00" type="pci" />
</interface>
"""
ON_VF = """<interface type="hostdev" managed="yes">
    <mac address="56:6F:1A:2B:00:02"/>
    <source><address type="pci" domain="0x0000" bus="0x01" slot="{slot}" function="{function}"/></source>
    <driver name="vfio"/>
    <link state="up"/>
    <boot order="2"/>
    <alias name="ua-7f2d4f0e-1111-4000-8000-000000000001"/>
    <address bus="0x02" domain="0x0000" function="0x0" slot="0x00" type="pci"/>
</interface>"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the plugin as `make install-vdsm` puts it there."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run(["make", "-s", "-C", PLUGIN.parent, "install-vdsm", f"DESTDIR={root}"], check=True)
    return root


class Vdsm:
    """vdsm's hook directories with the plugin in them, and the daemon that it asks."""

    def __init__(self, directory: Path, installed: Path) -> None:
        self.directory = directory
        shutil.copytree(installed / "usr/share/vfmigrate/vdsm_plugin", directory / "modules")
        shutil.copytree(installed / "usr/libexec/vdsm/hooks", directory / "hooks")
        shutil.copytree(directory / "hooks" / "after_vm_destroy", directory / "hooks" / "before_vm_destroy")
        for point in POINTS:
            text = self.script(point).read_text()
            for original, ours in (
                ("/usr/share/vfmigrate/vdsm_plugin", directory / "modules"),
                (str(protocol.SOCKET), directory / "sock"),
            ):
                assert text.count(f'"{original}"') == 1
                text = text.replace(original, str(ours))
            self.script(point).write_text(text)
        self.hooks = VdsmHooks(directory / "hooks")
        self.memory = MemoryHost()
        self.point_at_devices()
        settings = Config({"data": POOL}, clients=frozenset({"nobody"}), migrating_wait=0)
        self.store = ClaimStore(directory / "claims")
        self.log = Journal(directory / "no-journal")
        self.converger = Converger(self.memory.host, settings, self.store)
        self.promises = Promises(settings, self.memory.host, self.store, self.converger, self.log)
        self.requests: list[str] = []
        self.server = Server(listening_socket(directory / "sock"), self.answer)
        self.server.start()
        self.up = True

    def point_at_devices(self) -> None:
        """Have the plugin look for PCI devices where those of the host in memory are."""
        for vf in self.memory.vfs:
            (self.directory / "devices" / str(vf)).mkdir(parents=True)
        module = self.directory / "modules" / "vfmigrate_vdsm" / "endings.py"
        text = module.read_text()
        assert text.count('"/sys/bus/pci/devices"') == 1
        module.write_text(text.replace("/sys/bus/pci/devices", str(self.directory / "devices")))

    def script(self, point: str) -> Path:
        return self.directory / "hooks" / point / "50_vfmigrate"

    def answer(self, request: protocol.Request, uid: int) -> Mapping[str, Any]:
        self.requests.append(request.name)
        protocol.authorize(request, uid, frozenset(), frozenset({"nobody"}))
        return self.promises.answer(request)

    def stop(self) -> None:
        if self.up:
            self.server.stop()
            self.up = False

    def close(self) -> None:
        self.stop()
        self.store.close()
        self.log.close()

    @property
    def said(self) -> str:
        """What the scripts wrote to standard error, all of them."""
        return "".join(err for _, _, err in self.hooks.log)

    def held(self, vf: PciAddress, mac: str = MAC) -> None:
        """The guest runs with this VF."""
        (claim,) = (claim for claim in self.store.all() if claim.mac == mac)
        assert claim.vf == vf
        self.store.change(claim, state=claims.PLUGGED, expires=None)
        self.memory.sysfs.open_groups.add(str(vf))


@pytest.fixture
def vdsm(installed: Path) -> Iterator[Vdsm]:
    # not pytest's directory, which is closed to other users
    with tempfile.TemporaryDirectory(prefix="vfmigrate-vdsm-") as name:
        Path(name).chmod(0o755)
        rig = Vdsm(Path(name), installed)
        yield rig
        rig.close()


def canonical(xml: str) -> str:
    return ET.canonicalize(xml, strip_text=True)


def on_vf(vf: PciAddress) -> str:
    return ON_VF.format(slot=f"0x{vf.slot:02x}", function=f"0x{vf.function}")


PROPERTIES_IN_METADATA = "<ovirt-vm:vfmigrate_strategy>vfio</ovirt-vm:vfmigrate_strategy>"


def in_domain(
    *interfaces: str, marks: str = "", devices: str = "", properties: str = PROPERTIES_IN_METADATA
) -> str:
    """A domain as vdsm hands it over, with the metadata of vdsm itself."""
    return (
        '<domain type="kvm" xmlns:ns0="http://libvirt.org/schemas/domain/qemu/1.0" '
        'xmlns:ovirt-vm="http://ovirt.org/vm/1.0">'
        f"<name>web</name><uuid>{VM}</uuid><metadata><ovirt-vm:vm><ovirt-vm:device mac_address='{MAC}'>"
        f"<ovirt-vm:custom>{properties}</ovirt-vm:custom>"
        f"<ovirt-vm:network>data</ovirt-vm:network></ovirt-vm:device></ovirt-vm:vm>{marks}</metadata>"
        f"<devices>{''.join(interfaces)}{devices}</devices></domain>"
    )


def engines_vf(
    vf: PciAddress, mac: str = MAC, more: str = "", vlan: str = '<vlan><tag id="43"/></vlan>'
) -> str:
    """A vNIC on a passthrough profile, as the engine writes it."""
    return (
        f'<interface type="hostdev" managed="no"><mac address="{mac}"/>'
        f'<source><address type="pci" domain="0x0000" bus="0x01" slot="0x{vf.slot:02x}" '
        f'function="0x{vf.function}"/></source>{vlan}<driver name="vfio"/>{more}</interface>'
    )


def standby(name: str, mac: str = MAC) -> str:
    return (
        f'<interface type="bridge"><mac address="{mac}"/><source bridge="mgmt"/><model type="virtio"/>'
        f'<alias name="{name}"/><teaming type="persistent"/></interface>'
    )


def transient(name: str) -> str:
    return f'<alias name="ua-vf-{name}"/><teaming type="transient" persistent="{name}"/>'


# -- a vNIC whose VF takes its state along


def test_a_bridges_vnic_becomes_a_vf_of_the_pool(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={**VFIO, "vfmigrate_vlan": "43"})
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert (claim.domain, claim.mac, claim.vlan, claim.state) == (VM, MAC, 43, claims.RESERVED)
    assert claim.expires is not None
    assert "left out, since a VF has no such thing: port, filterref, bandwidth" in vdsm.said
    assert "the network's MTU is 9000, the port's 1500: see mtu of [pool data]" in vdsm.said


def test_run_twice_it_is_the_same(vdsm: Vdsm) -> None:
    made = [vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO) for _ in range(2)]
    assert made[0] == made[1]
    assert len(vdsm.store.all()) == 1
    assert vdsm.hooks.xml("before_device_create", made[0], VM, device=VFIO) == made[0]


def test_a_vnic_without_our_property_is_left_alone(vdsm: Vdsm) -> None:
    for point in ("before_device_create", "before_nic_hotplug"):
        assert vdsm.hooks.xml(point, BRIDGE, VM, device={"queues": "4"}) == BRIDGE
    assert vdsm.hooks.log == [("50_vfmigrate", 0, "")] * 2
    assert vdsm.requests == []


@pytest.mark.parametrize("strategy", ["failover", "replug"])
def test_strategies_of_the_profile_change_no_bridge(vdsm: Vdsm, strategy: str) -> None:
    assert (
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={"vfmigrate_strategy": strategy}) == BRIDGE
    )
    assert vdsm.requests == []


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"vfmigrate_strategy": "teleport"}, "it may be vfio, failover or replug"),
        ({"vfmigrate_strategy": "vfio\nfailover"}, r"'vfio\\nfailover'; it may be"),
        ({"vfmigrate_pool": ""}, "no name of a pool"),
        ({"vfmigrate_pool": "data\n"}, "no name of a pool"),
        ({"vfmigrate_pool": "../data"}, "no name of a pool"),
        ({"vfmigrate_pool": "p\u00f6\u00f6l"}, "no name of a pool"),
        ({"vfmigrate_pool": "absent"}, "this host has no pool 'absent'; its pools: data"),
        ({"vfmigrate_vlan": "4095"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "43\n"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "\u0664"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "100"}, "VLAN 100 is not allowed in pool 'data'"),
    ],
)
@pytest.mark.parametrize("point", ["before_device_create", "before_nic_hotplug"])
def test_a_property_that_is_none_stops_vdsm_with_one_line(
    vdsm: Vdsm, point: str, properties: dict[str, str], words: str
) -> None:
    with pytest.raises(HookError, match=words) as refusal:
        vdsm.hooks.xml(point, BRIDGE, VM, device={**VFIO, **properties})
    assert str(refusal.value).count("\n") == 1
    assert str(refusal.value).startswith("vfmigrate: ")
    assert [status for _, status, _ in vdsm.hooks.log] == [2]
    assert vdsm.store.all() == []


def test_hostile_custom_properties_change_nothing(vdsm: Vdsm) -> None:
    trap = vdsm.directory / "trap"
    trap.mkdir()
    for name in ("json", "socket", "hooking", "vfmigrate_vdsm", "sitecustomize"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    hostile = {
        "PATH": str(trap),
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "json.py"),
        "HOME": str(trap),
        "LD_LIBRARY_PATH": str(trap),
        "LD_PRELOAD": str(trap / "absent.so"),
        "LC_ALL": "xx_XX.KOI8-R",
        "IFS": "\n",
        "a\nb": "c\nd",
        "_hook_domxml": "/etc/passwd",
        "vmId": "00000000-0000-4000-8000-00000000ffff",
    }
    made = vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO, vm=hostile)
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert claim.domain == VM


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (engines_vf(PciAddress(0, 1, 0, 1)), "on a passthrough profile, which the engine unplugs"),
        (standby("ua-1"), "half of a failover pair"),
        (BRIDGE.replace('type="bridge"', 'type="network"'), "of type 'network'"),
        ("<interface type='bridge'/>", "has no MAC address"),
        ("<interface", "cannot be read"),
    ],
)
def test_a_vnic_that_cannot_be_turned_is_refused(vdsm: Vdsm, xml: str, words: str) -> None:
    with pytest.raises(HookError, match=words):
        vdsm.hooks.xml("before_device_create", xml, VM, device=VFIO)
    assert vdsm.store.all() == []


def test_other_devices_with_custom_properties_are_left_alone(vdsm: Vdsm) -> None:
    xml = '<hostdev mode="subsystem" type="pci"/>'
    assert vdsm.hooks.xml("before_device_create", xml, VM, device=VFIO) == xml
    assert vdsm.store.all() == []


@pytest.mark.parametrize("point", ["before_device_create", "before_nic_hotplug"])
def test_without_a_daemon_the_guest_does_not_start(vdsm: Vdsm, point: str) -> None:
    vdsm.stop()
    with pytest.raises(HookError, match=r"vfmigrated does not answer .* systemctl start vfmigrated.socket"):
        vdsm.hooks.xml(point, BRIDGE, VM, device=VFIO)


def test_a_user_who_is_no_client_is_told_so(vdsm: Vdsm) -> None:
    vdsm.hooks.user = 65533
    with pytest.raises(HookError, match=r"user '65533' may not ask vfmigrated for 'claim'; .* clients"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)


# -- plugged into a running guest


def test_a_vf_plugged_kept_and_unplugged(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_nic_hotplug", BRIDGE, VM, device=VFIO)
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert [port.tag for port in vdsm.memory.ovs.ports.values()] == [42]
    vdsm.memory.sysfs.open_groups.add(str(claim.vf))
    vdsm.hooks.xml("after_nic_hotplug", made, VM, device=VFIO)
    assert [claim.expires for claim in vdsm.store.all()] == [None]
    vdsm.memory.sysfs.open_groups.clear()
    # vdsm hands over what it remembers of the vNIC, which is the bridge's
    vdsm.hooks.xml("after_nic_hotunplug", BRIDGE, VM, device=VFIO)
    assert (vdsm.store.all(), vdsm.memory.ovs.ports) == ([], {})


def test_a_failed_plug_gives_the_vf_back(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_nic_hotplug", BRIDGE, VM, device=VFIO)
    for _ in range(2):
        vdsm.hooks.xml("after_nic_hotplug_fail", made, VM, device=VFIO)
    assert (vdsm.store.all(), vdsm.memory.ovs.ports) == ([], {})


def test_what_vdsm_cannot_be_stopped_from_is_only_logged(vdsm: Vdsm) -> None:
    vdsm.stop()
    for point in ("after_nic_hotplug", "after_nic_hotplug_fail", "after_nic_hotunplug"):
        vdsm.hooks.xml(point, BRIDGE, VM, device=VFIO)
    assert [status for _, status, _ in vdsm.hooks.log] == [0, 0, 0]
    assert vdsm.said.count("vfmigrated does not answer") == 3


# -- VFs that the engine chose


def test_the_engines_vf_gets_its_tag_on_the_port(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[1]
    given = in_domain(engines_vf(vf))
    made = vdsm.hooks.xml("before_vm_start", given, VM)
    assert canonical(made) == canonical(in_domain(engines_vf(vf, vlan="")))
    (claim,) = vdsm.store.all()
    assert (claim.vf, claim.vlan, claim.strategy, claim.managed, claim.domain_name) == (
        vf,
        43,
        "replug",
        False,
        "web",
    )


def test_a_vf_of_no_pool_of_ours_is_left_to_vdsm(vdsm: Vdsm) -> None:
    foreign = PciAddress(0, 1, 0x1F, 7)
    for point, xml in (
        ("before_vm_start", in_domain(engines_vf(foreign))),
        ("before_nic_hotplug", engines_vf(foreign)),
    ):
        assert vdsm.hooks.xml(point, xml, VM) == xml
    assert vdsm.store.all() == []
    assert vdsm.requests == ["claim", "claim"]


def test_vdsms_metadata_survives(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_vm_start", in_domain(engines_vf(vdsm.memory.vfs[1])), VM)
    assert "<ovirt-vm:vfmigrate_strategy>vfio</ovirt-vm:vfmigrate_strategy>" in made


def test_a_failover_pair_starts_and_comes_back_after_a_migration(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[2]
    vdsm.hooks.xml(
        "before_vm_start", in_domain(standby("ua-p1"), engines_vf(vf, more=transient("ua-p1"))), VM
    )
    assert [claim.strategy for claim in vdsm.store.all()] == ["failover"]
    vdsm.held(vf)
    # the engine unplugs the VF; the standby has the same MAC, and its going changes nothing
    vdsm.hooks.xml("after_nic_hotunplug", standby("ua-p1"), VM)
    assert len(vdsm.store.all()) == 1
    vdsm.memory.sysfs.open_groups.clear()
    vdsm.hooks.xml("after_nic_hotunplug", engines_vf(vf), VM)
    assert vdsm.store.all() == []
    # on the destination, or on the source again
    made = vdsm.hooks.xml("before_nic_hotplug", engines_vf(vf, more=transient("ua-p1")), VM)
    assert "<vlan" not in made
    assert [claim.strategy for claim in vdsm.store.all()] == ["failover"]
    assert vdsm.memory.ovs.ports == {}  # until the guest's driver takes the VF, the standby carries the guest
    vdsm.memory.card.set_bus_master(str(vf), True)
    vdsm.converger.converge(vf)
    assert [port.tag for port in vdsm.memory.ovs.ports.values()] == [43]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (("ua-p1", "ua-p1"), "have the same failover profile"),
        (("ua-p1", "ua-p2"), "no standby with the alias 'ua-p2'"),
    ],
)
def test_pairs_that_cannot_work(vdsm: Vdsm, others: tuple[str, str], words: str) -> None:
    vfs = [
        engines_vf(vdsm.memory.vfs[n], mac=f"56:6f:1a:2b:00:{n:02x}", more=transient(name))
        for n, name in enumerate(others)
    ]
    domain = in_domain(standby("ua-p1", mac="56:6f:1a:2b:00:00"), *vfs)
    with pytest.raises(HookError, match=words):
        vdsm.hooks.xml("before_vm_start", domain, VM)
    assert vdsm.store.all() == []


def test_a_standby_with_another_mac(vdsm: Vdsm) -> None:
    domain = in_domain(
        standby("ua-p1", mac="56:6f:1a:2b:00:0f"), engines_vf(vdsm.memory.vfs[0], more=transient("ua-p1"))
    )
    with pytest.raises(HookError, match="has a standby with MAC 56:6f:1a:2b:00:0f"):
        vdsm.hooks.xml("before_vm_start", domain, VM)


def test_a_guest_with_a_gpu_starts_without_the_daemon(vdsm: Vdsm) -> None:
    vdsm.stop()
    domain = in_domain(devices='<hostdev mode="subsystem" type="pci"/>')
    assert vdsm.hooks.xml("before_vm_start", domain, VM) == domain


# -- migration


def mark(vf: PciAddress, **facts: str) -> str:
    told = "".join(f" {key}='{value}'" for key, value in facts.items())
    # as vdsm's own libvirt hook leaves it: another prefix
    return (
        "<ns1:vfs xmlns:ns1='urn:vfmigrate:domain:1'>"
        f"<ns1:vf mac='{MAC}' address='{vf}' pool='data' vlan='43' strategy='vfio'{told}/></ns1:vfs>"
    )


def running(vdsm: Vdsm) -> PciAddress:
    vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    (claim,) = vdsm.store.all()
    vdsm.held(claim.vf)
    return claim.vf


def test_a_guest_may_leave(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    before = vdsm.store.all()
    for _ in range(2):
        vdsm.hooks.xml("before_vm_migrate_source", in_domain(on_vf(vf), marks=mark(vf)), VM)
    assert vdsm.store.all() == before
    assert vdsm.requests[-2:] == ["departure", "departure"]


def test_a_guest_that_cannot_leave(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    with pytest.raises(HookError, match=rf"does not tell of VF {vf} yet.*vfmigrate reconcile"):
        vdsm.hooks.xml("before_vm_migrate_source", in_domain(on_vf(vf)), VM)
    with pytest.raises(HookError, match="virtual IOMMU"):
        vdsm.hooks.xml(
            "before_vm_migrate_source",
            in_domain(on_vf(vf), marks=mark(vf), devices="<iommu model='intel'/>"),
            VM,
        )


def test_a_guest_whose_vf_the_engine_unplugged_is_said_to_leave(vdsm: Vdsm) -> None:
    marks = mark(vdsm.memory.vfs[0]).replace("strategy='vfio'", "strategy='failover'")
    vdsm.hooks.xml("before_vm_migrate_source", in_domain(standby("ua-p1"), marks=marks), VM)
    assert vdsm.requests == ["departure"]


def test_a_guest_arrives_at_the_very_vf(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    given = in_domain(on_vf(vf), marks=mark(vf))
    for _ in range(2):
        assert vdsm.hooks.xml("before_vm_migrate_destination", given, VM) == given
    (claim,) = vdsm.store.all()
    assert (claim.vf, claim.incoming, claim.vlan, claim.domain_name) == (vf, True, 43, "web")
    assert claim.expires is not None
    # it did not come after all: vdsm destroys what it had prepared
    vdsm.hooks.xml("after_vm_destroy", given, VM)
    assert vdsm.store.all() == []


def test_what_cannot_arrive_is_refused_and_leaves_nothing(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    with pytest.raises(HookError, match="PSID is MT_0000000001 on the source"):
        vdsm.hooks.xml(
            "before_vm_migrate_destination", in_domain(on_vf(vf), marks=mark(vf, psid="MT_0000000001")), VM
        )
    absent = PciAddress(0, 1, 0x1F, 7)
    with pytest.raises(HookError, match=r"0000:01:1f.7 is not a VF of pool 'data' on this host; vdsm needs"):
        vdsm.hooks.xml("before_vm_migrate_destination", in_domain(on_vf(absent), marks=mark(absent)), VM)
    assert vdsm.store.all() == []


def test_another_guest_has_the_vf(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    other = "00000000-0000-4000-8000-0000000000bb"
    given = in_domain(on_vf(vf), marks=mark(vf)).replace(VM, other)
    with pytest.raises(
        HookError, match=rf"VF {vf} of pool 'data' cannot be given to guest 'web': it is held by"
    ):
        vdsm.hooks.xml("before_vm_migrate_destination", given, other)
    assert [claim.domain for claim in vdsm.store.all()] == [VM]


def test_a_card_moves_no_more_at_once_than_it_can(vdsm: Vdsm) -> None:
    guests = [f"00000000-0000-4000-8000-0000000000c{n}" for n in range(POOL.max_migrating + 1)]
    given = [
        in_domain(on_vf(vf), marks=mark(vf)).replace(VM, guest) for vf, guest in zip(vdsm.memory.vfs, guests)
    ]
    for xml, guest in zip(given[:-1], guests):
        for _ in range(2):  # a retry is no further guest
            vdsm.hooks.xml("before_vm_migrate_destination", xml, guest)
    with pytest.raises(HookError, match="on the move"):
        vdsm.hooks.xml("before_vm_migrate_destination", given[-1], guests[-1])
    assert sorted(claim.domain for claim in vdsm.store.all()) == guests[:-1]
    vdsm.hooks.xml("after_vm_destroy", given[0], guests[0])  # one of them did not come after all
    vdsm.hooks.xml("before_vm_migrate_destination", given[-1], guests[-1])
    assert sorted(claim.domain for claim in vdsm.store.all()) == guests[1:]


def test_the_first_reason_is_told_when_the_daemon_goes_away(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    vdsm.stop()
    with pytest.raises(HookError, match="does not answer"):
        vdsm.hooks.xml("before_vm_migrate_destination", in_domain(on_vf(vf), marks=mark(vf)), VM)
    assert vdsm.said.count("vfmigrate: ") == 1


# -- the end


def test_a_destroyed_guest_gives_back_what_nobody_holds(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    vdsm.hooks.xml("after_vm_destroy", in_domain(on_vf(vf)), VM)
    assert len(vdsm.store.all()) == 1
    vdsm.memory.sysfs.open_groups.clear()
    for _ in range(2):
        vdsm.hooks.xml("after_vm_destroy", in_domain(on_vf(vf)), VM)
    assert vdsm.store.all() == []


def test_a_guest_that_never_started_gives_back_what_was_promised(vdsm: Vdsm) -> None:
    vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    assert len(vdsm.store.all()) == 1
    # a later hook refused: what vdsm knows of the guest is what the engine sent
    vdsm.hooks.xml("after_vm_destroy", in_domain(BRIDGE.split("?>")[1]), VM)
    assert vdsm.store.all() == []


def test_a_guest_that_could_not_come_for_want_of_its_address_is_told_of(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    given = in_domain(on_vf(vf), marks=mark(vf))
    vdsm.hooks.xml("after_vm_destroy", given, VM)  # it was here, or could have been
    assert vdsm.said == ""
    (vdsm.directory / "devices" / str(vf)).rmdir()
    vdsm.hooks.xml("after_vm_destroy", given, VM)
    assert (
        f"its VF is {vf}, and this host has no such device: vdsm needs the VFs of pool 'data' at the same"
        in vdsm.said
    )
    assert [status for _, status, _ in vdsm.hooks.log] == [0, 0]


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("after_get")])
def test_no_data_is_nothing_to_do(vdsm: Vdsm, point: str) -> None:
    for _ in range(2):
        assert vdsm.hooks.xml(point, None, VM) == ""
        assert vdsm.hooks.xml(point, None, VM, device=VFIO) == ""
    assert {status for _, status, _ in vdsm.hooks.log} == {0}
    assert vdsm.requests == []


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("after_get")])
def test_a_guest_without_a_vf_asks_nobody(vdsm: Vdsm, point: str) -> None:
    for xml in (BRIDGE, in_domain(BRIDGE.split("?>")[1], properties="<ovirt-vm:queues>4</ovirt-vm:queues>")):
        assert vdsm.hooks.xml(point, xml, VM) == xml
    assert {(status, err) for _, status, err in vdsm.hooks.log} == {(0, "")}
    assert vdsm.requests == []


# -- the host


def test_the_host_tells_of_its_pools(vdsm: Vdsm) -> None:
    running(vdsm)
    caps = vdsm.hooks.json("after_get_caps", {"kvmEnabled": "true"})
    card = vdsm.memory.host.card(vdsm.memory.pf)
    assert caps["kvmEnabled"] == "true"
    assert caps["vfmigrate"]["pools"] == [
        {
            "name": "data",
            "bridge": "br-data",
            "vfs": 4,
            "free": 3,
            "cards": [
                {
                    "pf": "0000:01:00.0",
                    "psid": card.psid,
                    "firmware": card.firmware,
                    "migrating": 0,
                    "max_migrating": 2,
                }
            ],
        }
    ]
    stats = vdsm.hooks.json("after_get_stats", {"cpuUser": "1"})
    assert stats == {"cpuUser": "1", "vfmigrate": {"data": {"vfs": 4, "free": 3}}}


def test_a_host_without_the_daemon_tells_the_rest(vdsm: Vdsm) -> None:
    vdsm.stop()
    for point in ("after_get_caps", "after_get_stats"):
        assert vdsm.hooks.json(point, {"a": 1}) == {"a": 1}
    assert {status for _, status, _ in vdsm.hooks.log} == {0}
    (vdsm.directory / "sock").unlink()
    vdsm.hooks.log.clear()
    assert vdsm.hooks.json("after_get_caps", {"a": 1}) == {"a": 1}
    assert vdsm.hooks.log == [("50_vfmigrate", 0, "")]


# -- the script itself


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


def test_a_refusal_lets_no_later_hook_bury_its_message(vdsm: Vdsm) -> None:
    later = vdsm.script("before_device_create").with_name("60_last")
    later.write_text("#!/bin/sh\necho other >&2\nexit 1\n")
    later.chmod(0o755)
    with pytest.raises(HookError, match="no pool 'absent'"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={**VFIO, "vfmigrate_pool": "absent"})


def test_what_is_installed_runs_at_every_point_at_which_the_plugin_acts(installed: Path) -> None:
    hooks = installed / "usr/libexec/vdsm/hooks"
    assert {path.name for path in hooks.iterdir()} == set(POINTS) - {"before_vm_destroy"}
    executable = {
        path.name for path in installed.rglob("*") if path.is_file() and path.stat().st_mode & 0o111
    }
    assert executable == {"50_vfmigrate"}
    (drop_in,) = (installed / "etc/vfmigrate/vfmigrate.conf.d").iterdir()
    main = drop_in.parent.with_name("vfmigrate.conf")
    assert config.load(main).clients == {"vdsm"}


@pytest.mark.parametrize("point", POINTS)
def test_where_there_is_nothing_to_do_nothing_is_imported(vdsm: Vdsm, point: str) -> None:
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
def test_self_check(vdsm: Vdsm, point: str) -> None:
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


def test_an_answer_that_is_none(vdsm: Vdsm) -> None:
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


def test_a_bug_is_one_line_that_says_where(vdsm: Vdsm) -> None:
    module = vdsm.directory / "modules" / "vfmigrate_vdsm" / "vnic.py"
    module.write_text(
        module.read_text() + "\n\ndef convert(interface, address):\n    raise KeyError(address)\n"
    )
    with pytest.raises(HookError, match=r"^vfmigrate: the plugin has a bug: KeyError at .*vnic.py:\d+\n$"):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
