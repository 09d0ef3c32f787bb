# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate attach` and `vfmigrate detach`: add a VF of a pool to a guest, or remove one.

Both change the persistent definition and, if the guest runs, the guest itself. The definition is changed through
libvirt with the user's own rights. The daemon of this host lists its pools and, for a running guest, plugs the VF's
port, because libvirt calls no hook at a hot-plug. A change that cannot work is refused before anything is changed; a
change that fails half-way is undone.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, guest_change
from vfmigrate.cli.guest_change import Answer, GuestChange
from vfmigrate.domain import attachment, domain_xml
from vfmigrate.domain.attachment import Attachment
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.domain.markup import Markup
from vfmigrate.errors import HostError, InputError, Refused, UsageError
from vfmigrate.model import strategy
from vfmigrate.model.mac import parse_mac
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import compatibility
from vfmigrate.strategies.failover.definition import chosen
from vfmigrate.text import quoted

if TYPE_CHECKING:
    from vfmigrate.virt.connection import LibvirtConnection


def add(verbs: Any) -> None:
    """Add both verbs to a parser's."""
    purpose = "add a VF of a pool to a guest: to its definition and, if it runs, at once"
    verb = verbs.add_parser("attach", help=purpose, description=purpose)
    _add_common(verb, mac="MAC of the VF; default: a new one")
    verb.add_argument("--pool", required=True, metavar="POOL", help="the pool of this host to use")
    verb.add_argument(
        "--vlan", type=common_options.vlan, metavar="N", help="VLAN tag of the VF's port; default: the pool's"
    )
    verb.add_argument(
        "--strategy",
        choices=strategy.NAMES,
        help="how the VF migrates with the guest; default: vfio, with its device state",
    )
    verb.set_defaults(run=_attach)

    purpose = "remove a VF from a guest: from its definition and, if it runs, at once"
    verb = verbs.add_parser("detach", help=purpose, description=purpose)
    _add_common(verb, mac="MAC of the VF; required if the guest has more than one VF")
    verb.set_defaults(run=_detach)


def _add_common(verb: argparse.ArgumentParser, *, mac: str) -> None:
    common_options.add_domain(verb)
    common_options.add_connect(verb)
    verb.add_argument("--mac", type=_mac, metavar="MAC", help=mac)
    verb.add_argument(
        "--config",
        action="store_true",
        help="change only the definition; takes effect at the guest's next boot",
    )
    common_options.add_dry_run(verb)
    common_options.add_json(verb)


def _mac(text: str) -> str:
    try:
        mac = parse_mac(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if int(mac[:2], 16) & 1:
        raise argparse.ArgumentTypeError(f"{text} is a multicast address; an interface needs a unicast MAC")
    return mac


def new_mac(taken: Container[str]) -> str:
    """A MAC in QEMU's range (52:54:00) that no guest of this host has."""
    while True:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        if mac not in taken:
            return mac


# -- attach


def _attach(options: argparse.Namespace) -> int:
    with guest_change.begun(options) as work:
        pool = _pool(work.ask("status")["pools"], options.pool)
        _check_vlan(pool, options.vlan)
        macs = work.connection.macs()
        if options.mac in macs:
            raise Refused(
                f"guest '{macs[options.mac]}' already has an interface with MAC {options.mac}",
                "choose another MAC, or omit --mac to get a new one",
            )
        network = _network(work.connection, pool)
        free = _free(pool)
        if work.live or network is None:
            _check_free(pool, free)
        wanted = Attachment(
            mac=options.mac or new_mac(macs),
            pool=options.pool,
            network=network,
            vf=free[-1] if network is None else None,
            vlan=options.vlan,
            strategy=options.strategy,
        )
        work.plan(wanted)
        _check_guest(work, wanted)
        if not work.dry_run:
            with work.all_or_nothing():
                if work.live and network is None:
                    wanted = _claim(work, wanted)
                    work.plan(wanted)
                work.define()
                if work.live:
                    _plug(work, wanted)
        if strategy.named(wanted.strategy).teamed:
            work.done.append(
                f"next, run: vfmigrate failover enable {quoted(work.name)} --mac {quoted(wanted.mac)}"
            )
        work.show(_result(work, wanted), "\n".join(wanted.device()), as_json=options.json)
    return 0


def _result(work: GuestChange, wanted: Attachment) -> dict[str, Any]:
    claim = work.claim(wanted.mac) if work.live and not work.dry_run else None
    return {
        "domain": work.name,
        "uuid": work.uuid,
        "mac": wanted.mac,
        "pool": wanted.pool,
        "network": wanted.network,
        "vf": claim["vf"] if claim is not None else str(wanted.vf) if wanted.vf is not None else None,
        "vlan": wanted.vlan,
        "strategy": wanted.strategy,
        "live": work.live,
        "config": work.before is not None,
        "dry_run": work.dry_run,
    }


def _pool(pools: list[Answer], name: str) -> Answer:
    for pool in pools:
        if pool["name"] == name:
            return pool
    names = ", ".join(sorted(pool["name"] for pool in pools)) or "none"
    raise UsageError(f"this host has no pool '{name}'", f"its pools: {names}")


def _check_vlan(pool: Answer, vlan: Optional[int]) -> None:
    if vlan is not None and vlan != pool["vlan"] and vlan not in pool["vlans"]:
        raise compatibility.vlan_refusal(vlan, pool["name"])


def _network(connection: LibvirtConnection, pool: Answer) -> Optional[str]:
    name: Optional[str] = pool["network"]
    if name is not None and not connection.runs_network(name):
        raise Refused(
            f"libvirt network '{name}' of pool '{pool['name']}' is not running",
            f"run: vfmigrate provision {quoted(pool['name'])}",
        )
    return name


def _free(pool: Answer) -> list[PciAddress]:
    return [
        PciAddress.parse(vf["address"]) for pf in pool["pfs"] for vf in pf["vfs"] if vf["state"] == "free"
    ]


def _check_free(pool: Answer, free: list[PciAddress]) -> None:
    if free:
        return
    vfs = [vf for pf in pool["pfs"] for vf in pf["vfs"]]
    if not vfs:
        raise Refused(
            f"pool '{pool['name']}' has no VFs on this host",
            f"run: vfmigrate provision {quoted(pool['name'])}",
        )
    taken = "; ".join(f"{vf['address']} {vf['guest'] or vf['holder'] or vf['state']}" for vf in vfs)
    raise Refused(
        f"pool '{pool['name']}' has no free VF on this host: {taken}",
        "migrate one of these guests to another host, or raise 'vfs' of the pool",
    )


def _check_guest(work: GuestChange, wanted: Attachment) -> None:
    """Raises Refused for a guest that cannot have this VF."""
    for xml in (
        work.after,
        attachment.attached(work.connection.live(work.name), wanted) if work.live else None,
    ):
        if xml is not None and strategy.named(wanted.strategy).state_travels:
            guest = domain_xml.read(xml)
            compatibility.check_guest(guest, [vf for vf in guest.interfaces if vf.wanted_mac == wanted.mac])
    if not work.live:
        return
    if strategy.named(wanted.strategy).teamed:
        raise Refused(
            f"guest '{work.name}' is running; a VF with a standby can only be added to its definition",
            "add --config; then run vfmigrate failover enable, and restart the guest",
        )
    attachment.check_free_port(work.connection.live(work.name))


def _claim(work: GuestChange, wanted: Attachment) -> Attachment:
    """Let the daemon choose a VF: it decides which one is free."""
    claimed = work.ask(
        "claim",
        domain=work.uuid,
        name=work.name,
        mac=wanted.mac,
        pool=wanted.pool,
        strategy=wanted.strategy or strategy.DEFAULT,
        vlan=wanted.vlan,
        plug=True,
    )
    work.on_failure("release the VF", lambda: work.give_back(wanted.mac))
    return replace(wanted, vf=PciAddress.parse(claimed["vf"]))


def _plug(work: GuestChange, wanted: Attachment) -> None:
    """Plug the VF into the running guest and its port into the bridge."""
    marks = work.marks()
    work.connection.stamp(work.name, (*marks, wanted.mark()))
    work.on_failure("restore the metadata", lambda: work.connection.stamp(work.name, marks))
    work.plug("\n".join(wanted.device()))
    work.on_failure("unplug the VF", lambda: work.unplug(wanted.mac))
    if wanted.network is None:
        work.ask("keep", domain=work.uuid, mac=wanted.mac)
    else:
        # libvirt chose the VF itself: the daemon finds it when it reconciles.
        work.ask("reconcile")
    _check_claim(work, wanted)


def _check_claim(work: GuestChange, wanted: Attachment) -> None:
    status = work.ask("status")
    claim = work.claim(wanted.mac, status)
    if claim is None or claim["state"] != "plugged":
        raise HostError(
            f"vfmigrated did not adopt the VF with MAC {wanted.mac} that libvirt gave to guest '{work.name}'",
            "see: journalctl -t vfmigrated",
        )
    (pool,) = [pool for pool in status["pools"] if pool["name"] == wanted.pool]
    (vf,) = [vf for pf in pool["pfs"] for vf in pf["vfs"] if vf["address"] == claim["vf"]]
    if vf["bridge"] != pool["bridge"] or wanted.vlan not in (None, vf["tag"]):
        where = f"{pool['bridge']}, VLAN {wanted.vlan}" if wanted.vlan is not None else pool["bridge"]
        raise HostError(
            f"VF {vf['address']} is not plugged into {where}: {' '.join(vf['problems'])}",
            "see: journalctl -t vfmigrated",
        )
    vlan = f" in VLAN {claim['vlan']}" if claim["vlan"] is not None else ""
    work.done.append(f"plugged VF {claim['vf']} with MAC {wanted.mac} into the running guest{vlan}")


# -- detach


def _detach(options: argparse.Namespace) -> int:
    with guest_change.begun(options) as work:
        networks = work.connection.hostdev_networks()
        live = work.connection.live(work.name, resolved=False) if work.live else None
        defined = _chosen(work.before, options.mac, networks)
        mac = options.mac or (defined.wanted_mac if defined is not None else None)
        plugged = _chosen(live, mac, networks)
        found = plugged or defined
        if found is None:
            which = f" with MAC {options.mac}" if options.mac is not None else ""
            raise Refused(
                f"guest '{work.name}' has no VF{which}", f"see: virsh domiflist {quoted(work.name)}"
            )
        _check_not_paired(work.name, found)
        mac = _mac_of(work.name, found)
        if defined is not None:
            work.plan_without(defined)
        if not work.dry_run:
            with work.all_or_nothing():
                work.define()
                if plugged is not None:
                    _unplug(work, mac)
        result = {
            "domain": work.name,
            "uuid": work.uuid,
            "mac": mac,
            "live": plugged is not None,
            "config": work.after is not None,
            "dry_run": work.dry_run,
        }
        device = domain_xml.device(live, plugged.position) if live is not None and plugged is not None else ""
        work.show(result, device, as_json=options.json)
    return 0


def _chosen(xml: Optional[str], mac: Optional[str], networks: frozenset[str]) -> Optional[VfInterface]:
    """The VF in this XML that the options name; None if the XML has no such VF."""
    if xml is None:
        return None
    guest = domain_xml.read(xml)
    devices = list(Markup(xml).root.all("devices/*"))
    if mac is None and not guest.interfaces:
        return None
    if mac is not None and all(each.wanted_mac != mac for each in guest.interfaces):
        return None
    return chosen(guest, devices, mac, networks)


def _check_not_paired(name: str, vf: VfInterface) -> None:
    if vf.teaming is not None:
        raise Refused(
            f"the VF with MAC {vf.wanted_mac} of guest '{name}' is part of a failover pair",
            f"run first: vfmigrate failover disable {quoted(name)} --mac {quoted(vf.wanted_mac)}",
        )


def _mac_of(name: str, vf: VfInterface) -> str:
    if vf.wanted_mac is None:
        raise InputError(
            f"VF {vf.address} of guest '{name}' has no MAC, so vfmigrate cannot identify it",
            f"detach it with: virsh detach-device {quoted(name)} FILE",
        )
    return vf.wanted_mac


def _unplug(work: GuestChange, mac: str) -> None:
    work.unplug(mac)
    work.unmark(mac)
    work.done.append(f"unplugged the VF with MAC {mac} from the running guest")
