# SPDX-License-Identifier: GPL-2.0-or-later
"""An oVirt guest migrates from A to B and back with the plugin's scripts, called in vdsm's order; and what they veto.

vdsm itself is not here: a package stands in for what hooks need of it, and tests/testbed/vdsm.py does what it does.
"""

from __future__ import annotations

import time
from xml.etree import ElementTree as ET

from tests.testbed import expect, fabric, facts, terminal, timeline, vdsm, vdsm_package
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration
from tests.testbed.peer import Peer
from tests.testbed.provision import VFS
from tests.testbed.report import Record
from tests.testbed.run import CommandError
from tests.testbed.vdsm import VM_URI, Vdsm, VetoError

NAME = "ovirt"
TIMEOUT_S = 900
STAMPED_S = 30
ANSWER_S = 60

# MACs of oVirt's range. The MAC selects the VF: the third of four here, on both hosts.
MAC = "56:6f:1a:2b:00:02"
GUEST = Guest("ovirt-guest", 12, (Nic(mac=MAC, vlan=43, number=22, vf="0000:01:10.4"),))
# Guests that are about to start on B, for which its VFs are reserved; libvirt never sees them.
CROWD = tuple(
    Guest(f"crowd-{n}", 130 + n, (Nic(mac=f"56:6f:1a:2b:01:0{n}", vlan=42, number=30 + n),))
    for n in range(VFS + 1)
)
PROPERTIES = {"vfmigrate_strategy": "vfio", "vfmigrate_pool": POOL, "vfmigrate_vlan": "43"}
ALIAS = "ua-7f2d4f0e-1111-4000-8000-000000000022"
TUNE_URI = "http://ovirt.org/vm/tune/1.0"
LIBVIRT_HOOK_SAW = f"migrate {GUEST.name}"

# A vNIC of a profile without passthrough, as the engine writes it.
VNIC = """\
    <interface type="bridge">
      <model type="virtio"/>
      <link state="up"/>
      <source bridge="ovirt-data"/>
      <driver name="vhost" queues="1"/>
      <alias name="{alias}"/>
      <boot order="1"/>
      <mac address="{mac}"/>
      <mtu size="1500"/>
      <filterref filter="vdsm-no-mac-spoofing"/>
      <bandwidth/>
    </interface>
"""
METADATA = """\
  <metadata xmlns:ovirt-tune="{tune}" xmlns:ovirt-vm="{vm}">
    <ovirt-tune:qos/>
    <ovirt-vm:vm>
      <ovirt-vm:clusterVersion>4.8</ovirt-vm:clusterVersion>
      <ovirt-vm:launchPaused>false</ovirt-vm:launchPaused>
      <ovirt-vm:device mac_address="{mac}">
        <ovirt-vm:network>ovirt-data</ovirt-vm:network>
        <ovirt-vm:custom>
{custom}        </ovirt-vm:custom>
      </ovirt-vm:device>
      <ovirt-vm:resumeBehavior>auto_resume</ovirt-vm:resumeBehavior>
    </ovirt-vm:vm>
  </metadata>
"""


def engines_xml(guest: Guest) -> str:
    """The XML that the engine sends to vdsm."""
    mac = guest.nics[0].mac
    custom = "".join(
        f"          <ovirt-vm:{key}>{value}</ovirt-vm:{key}>\n"
        for key, value in {**PROPERTIES, "vfmigrate_vlan": guest.nics[0].vlan}.items()
    )
    return guest.domain(
        METADATA.format(tune=TUNE_URI, vm=VM_URI, mac=mac, custom=custom), VNIC.format(alias=ALIAS, mac=mac)
    )


def run(lab: Lab, record: Record) -> None:
    """Install the packages, run the guest, remove the packages."""
    with terminal.step("vdsm's stand-in and vdsm-hook-vfmigrate are installed"):
        package = vdsm_package.stage()
        lab.on_both(lambda host: vdsm_package.install(host, package))
    a, b = Vdsm(lab.a), Vdsm(lab.b)
    try:
        self_checks(a, record)
        play(lab, record, a, b)
    finally:
        for there in (a, b):
            there.clear_away(GUEST)
            record.measured[f"hooks_on_{there.host.name}"] = len(there.log)
        with terminal.step("both packages are removed"):
            lab.on_both(vdsm_package.remove)
    for host in lab.hosts:
        left = host.run(
            "ls -d /usr/libexec/vdsm /usr/share/vfmigrate /etc/libvirt/hooks/qemu 2> /dev/null; true"
        )
        expect.that(not left, f"the packages left behind on {host.hostname}: {' '.join(left.split())}")


def self_checks(there: Vdsm, record: Record) -> None:
    """Run `--test` of every installed script as user vdsm."""
    user = f"setpriv --reuid={vdsm_package.USER} --regid=$(id -g {vdsm_package.USER}) --clear-groups"
    scripts = f"{vdsm_package.HOOKS}/*/50_vfmigrate"
    command = f"for script in {scripts}; do {user} $script --test > /dev/null || exit 1; echo; done"
    record.measured["self_checks"] = there.host.run(command, timeout=120).count("\n")
    expect.that(record.measured["self_checks"] > 0, "no script of the plugin is installed")


def play(lab: Lab, record: Record, a: Vdsm, b: Vdsm) -> None:
    """A veto, then there and back."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    host_tells_of_its_pool(a)
    with terminal.step("vdsm starts the guest on host A"):
        GUEST.console.unlink(missing_ok=True)
        before = facts.look(lab.a)
        a.start(GUEST, engines_xml(GUEST))
        lab.await_boot(GUEST)
        await_stamp(lab.a)
    record.source_vf = as_vdsm_wants(lab, lab.a)
    record.source_vlan = nic.vlan
    expect.that(record.source_vf == nic.vf, f"the guest has VF {record.source_vf}, not {nic.vf}")
    peer = Peer(nic.address)
    try:
        answers(peer, lab.a)
        with terminal.step("every VF of host B is reserved for other guests; the migration is vetoed"):
            record.measured.update(vetoes(lab, a, b))
        answers(peer, lab.a)
        expect.that(as_vdsm_wants(lab, lab.a) == nic.vf, "the guest has another VF after the veto")
        with terminal.step("vdsm migrates the guest, A to B"):
            there = vdsm.migrate(lab, GUEST, a, b)
        arrived(lab, there, lab.a, lab.b)
        record.destination_vf = as_vdsm_wants(lab, lab.b)
        record.destination_vlan = nic.vlan
        record.downtime_ms = there.downtime_ms
        record.events = timeline.collect(lab.hosts, there.began)
        answers(peer, lab.b)
        expect.learned(GUEST, lab.b)
        clean(lab, lab.a, before)
        await_stamp(lab.b)
        with terminal.step("vdsm migrates the guest, B back to A"):
            back = vdsm.migrate(lab, GUEST, b, a)
        arrived(lab, back, lab.b, lab.a)
        as_vdsm_wants(lab, lab.a)
        record.measured["downtime_back_ms"] = back.downtime_ms
        answers(peer, lab.a)
        expect.learned(GUEST, lab.a)
    finally:
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    with terminal.step("vdsm ends the guest on host A"):
        a.destroy(GUEST, a.live(GUEST))
    clean(lab, lab.a, before)
    loud = [line for line in (*a.log, *b.log) if line[2] not in (0, 2)]
    expect.that(not loud, f"a hook script ended with a status other than 0 and 2: {loud}")


def answers(peer: Peer, host: Host) -> None:
    """Expect the guest on this host to answer; otherwise report where frames are lost."""
    if peer.await_answers(10, ANSWER_S):
        return
    nic = GUEST.nics[0]
    representor = next(vf.representor for vf in facts.look(host).vfs.values() if vf.address == nic.vf)
    counters = f"cd /sys/class/net/{representor}/statistics && cat tx_packets rx_packets"
    before, _, after = (host.run(script).split() for script in (counters, "sleep 2", counters))
    to_guest, from_guest = (int(late) - int(early) for early, late in zip(before, after))
    raise expect.ScenarioError(
        f"the guest does not answer the peer on {host.hostname}; the switch looks for it at "
        f"{fabric.learned_port(nic.mac, nic.vlan)}; in two seconds {to_guest} frames went to it and {from_guest} came"
    )


def host_tells_of_its_pool(there: Vdsm) -> None:
    """The host's capabilities and statistics have its pool."""
    caps = there.json("after_get_caps", {"kvmEnabled": "true"})
    (pool,) = caps["vfmigrate"]["pools"]
    expect.that(
        caps["kvmEnabled"] == "true" and (pool["name"], pool["vfs"], pool["free"]) == (POOL, VFS, VFS),
        f"the capabilities have {pool}",
    )
    expect.that(pool["cards"][0]["psid"], f"the capabilities have no PSID: {pool}")


def vetoes(lab: Lab, a: Vdsm, b: Vdsm) -> dict[str, str]:
    """Reserve every VF of B for guests that are about to start; returns the messages of the vetoes."""
    before = facts.look(lab.b)
    told = {}
    for guest in CROWD[:VFS]:
        reserve(b, guest)
    free = b.json("after_get_stats", {})["vfmigrate"][POOL]["free"]
    expect.that(free == 0, f"the statistics have {free} free VFs, and every one is reserved")
    try:
        reserve(b, CROWD[VFS])
    except VetoError as veto:
        told["veto_of_a_start"] = str(veto)
    try:
        vdsm.migrate(lab, GUEST, a, b)
    except VetoError as veto:
        told["veto_of_a_migration"] = str(veto)
    except CommandError as error:
        raise expect.ScenarioError(f"vdsm itself failed on {lab.b.hostname}: {error}") from error
    statuses = [status for _, name, status, _ in b.log if name == "50_vfmigrate" and status != 0]
    expect.that(statuses == [2, 2], f"the scripts that vetoed ended with {statuses}")
    for key in ("veto_of_a_start", "veto_of_a_migration"):
        text = told.get(key, "")
        terminal.console.print(f"{key.replace('_', ' ')}: [italic]{text}[/italic]", soft_wrap=True)
        holders = [guest.uuid for guest in CROWD if guest.uuid in text]
        expect.that(f"'{POOL}'" in text and holders, f"{key} names no pool and holder: {text!r}")
        expect.that(len(text.splitlines()) == 1, f"{key} is not one line: {text!r}")
    for guest in CROWD[:VFS]:
        # vdsm gives up before it processes the engine's XML
        b.destroy(guest, engines_xml(guest))
    expect.that(lab.running(GUEST, lab.a), "the guest does not run on host A any more")
    clean(lab, lab.b, before)
    return told


def reserve(there: Vdsm, guest: Guest) -> None:
    """Run the hooks that turn a vNIC into a VF, as vdsm does before it starts the guest."""
    vnic = VNIC.format(alias=ALIAS, mac=guest.nics[0].mac)
    there.xml("before_device_create", vnic, guest, {**PROPERTIES, "vfmigrate_vlan": "42"})


def await_stamp(host: Host) -> None:
    """Wait until the daemon has written what a destination needs into the running guest's metadata."""
    deadline = time.monotonic() + STAMPED_S
    while "psid=" not in host.run(f"virsh dumpxml {GUEST.name}"):
        expect.that(time.monotonic() < deadline, f"the guest's metadata has no PSID after {STAMPED_S} s")
        time.sleep(0.3)


def arrived(lab: Lab, migration: Migration, source: Host, destination: Host) -> None:
    """Expect the guest on the destination only, and vdsm's own libvirt hook called there."""
    expect.migrated(migration, GUEST)
    expect.moved(lab, GUEST, source, destination)
    seen = destination.run(f"cat {vdsm_package.ARRIVALS}").splitlines()
    expect.that(LIBVIRT_HOOK_SAW in seen, f"vdsm's libvirt hook on {destination.hostname} was not called")
    defined = source.run("virsh list --all --name").split()
    expect.that(GUEST.name not in defined, f"the guest is still defined on {source.hostname}")


def as_vdsm_wants(lab: Lab, host: Host) -> str:
    """Expect the VF to be set up and the XML to have everything that vdsm wrote into it; returns the VF's address."""
    vf = expect.plugged(lab, GUEST, host)[MAC]
    where = f"on {host.hostname}"
    domain = ET.fromstring(host.run(f"virsh dumpxml {GUEST.name}"))
    interface = next(
        nic for nic in domain.iterfind("devices/interface") if nic.find(f"mac[@address='{MAC}']") is not None
    )
    for path in (f"alias[@name='{ALIAS}']", "boot[@order='1']", "link[@state='up']"):
        expect.that(interface.find(path) is not None, f"{where} the vNIC has no <{path}>")
    expect.that(domain.find(f"metadata/{{{TUNE_URI}}}qos") is not None, f"{where} ovirt-tune:qos is gone")
    custom = vdsm.custom_of(domain, interface)
    expect.that(custom == PROPERTIES, f"{where} vdsm's custom properties are {custom}")
    network = domain.findtext(f"metadata/{{{VM_URI}}}vm/{{{VM_URI}}}device/{{{VM_URI}}}network")
    expect.that(network == "ovirt-data", f"{where} vdsm's network is {network}")
    return vf.address


def clean(lab: Lab, host: Host, before: facts.Facts) -> None:
    """Expect a host to become as it was."""
    changed = lab.settle({host.name: before})[host.name]
    told = "; ".join(f"{kind} {', '.join(items)}" for kind, items in changed.items() if items)
    expect.that(facts.is_clean(changed), f"left behind on {host.hostname}: {told}")
