# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate attach` and `vfmigrate detach`: a VF of a pool for a guest, in its definition and while it runs.

The definition is changed through libvirt with the user's own rights; the daemon of this host is asked what its pools
have and, for a guest that runs, to plug the VF's port, since libvirt calls no hook when a device is plugged in. What
cannot work is refused before anything is changed; what fails half-way is taken back.
"""

from __future__ import annotations

import argparse
import re
import secrets
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import failover_verb, guest_change
from vfmigrate.cli.guest_change import GuestChange, Told
from vfmigrate.domain import attachment, domain_xml, metadata
from vfmigrate.domain.attachment import Attachment
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.domain.markup import Markup
from vfmigrate.errors import HostError, InputError, Refused, UsageError
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import compatibility
from vfmigrate.strategies.failover.definition import chosen

if TYPE_CHECKING:
    from vfmigrate.virt.session import Session

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def add(verbs: Any) -> None:
    """Add both verbs to a parser's."""
    told = "give a guest a VF of a pool, in its definition and, if it runs, at once"
    verb = verbs.add_parser("attach", help=told, description=told)
    _add_common(verb, mac="MAC of the VF; default: a new one")
    verb.add_argument("--pool", required=True, metavar="POOL", help="the pool of this host to take it from")
    verb.add_argument(
        "--vlan", type=failover_verb.vlan, metavar="N", help="VLAN tag of its port; default: the pool's"
    )
    verb.add_argument(
        "--strategy",
        choices=metadata.STRATEGIES,
        help="how it crosses when the guest migrates; default: vfio, its state travels",
    )
    verb.set_defaults(run=_attach)

    told = "take a VF away from a guest, from its definition and, if it runs, at once"
    verb = verbs.add_parser("detach", help=told, description=told)
    _add_common(verb, mac="MAC of the VF; needed when the guest has more than one")
    verb.set_defaults(run=_detach)


def _add_common(verb: argparse.ArgumentParser, *, mac: str) -> None:
    verb.add_argument("domain", metavar="DOMAIN", help="name or UUID of the guest")
    verb.add_argument(
        "-c", "--connect", metavar="URI", help="this host's libvirt; default: as virsh chooses it"
    )
    verb.add_argument("--mac", type=_mac, help=mac)
    verb.add_argument(
        "--config", action="store_true", help="the definition only: for the next boot of a guest that runs"
    )
    verb.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    verb.add_argument("--json", action="store_true", help="for programs")


def _mac(text: str) -> str:
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise argparse.ArgumentTypeError(f"'{text}' is not a MAC address")
    if int(mac[:2], 16) & 1:
        raise argparse.ArgumentTypeError(f"{text} is a group's address, not one of an interface")
    return mac


def new_mac(taken: Container[str]) -> str:
    """A MAC of QEMU's own range (52:54:00) that nobody here has."""
    while True:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        if mac not in taken:
            return mac


# -- attach


def _attach(options: argparse.Namespace) -> int:
    with guest_change.begun(options) as work:
        pool = _pool(work.ask("status")["pools"], options.pool)
        _check_vlan(pool, options.vlan)
        macs = work.session.macs()
        if options.mac in macs:
            raise Refused(
                f"guest '{macs[options.mac]}' has an interface with MAC {options.mac} already",
                "choose another one, or leave --mac away for a new one",
            )
        network = _network(work.session, pool)
        free = _free(pool)
        if work.live or network is None:
            _check_free(pool, free)
        wish = Attachment(
            mac=options.mac or new_mac(macs),
            pool=options.pool,
            network=network,
            vf=free[-1] if network is None else None,
            vlan=options.vlan,
            strategy=options.strategy,
        )
        work.will_have(wish)
        _check_guest(work, wish)
        if not work.dry_run:
            with work.all_or_nothing():
                if work.live and network is None:
                    wish = _claim(work, wish)
                    work.will_have(wish)
                work.define()
                if work.live:
                    _plug(work, wish)
        if wish.strategy == "failover":
            work.done.append(f"next: vfmigrate failover enable {work.name} --mac {wish.mac}")
        work.show(_told(work, wish), "\n".join(wish.device()), as_json=options.json)
    return 0


def _told(work: GuestChange, wish: Attachment) -> dict[str, Any]:
    claim = work.claim(wish.mac) if work.live and not work.dry_run else None
    return {
        "domain": work.name,
        "uuid": work.uuid,
        "mac": wish.mac,
        "pool": wish.pool,
        "network": wish.network,
        "vf": claim["vf"] if claim is not None else str(wish.vf) if wish.vf is not None else None,
        "vlan": wish.vlan,
        "strategy": wish.strategy,
        "live": work.live,
        "config": work.before is not None,
        "dry_run": work.dry_run,
    }


def _pool(pools: list[Told], name: str) -> Told:
    for pool in pools:
        if pool["name"] == name:
            return pool
    there_are = ", ".join(sorted(pool["name"] for pool in pools)) or "none"
    raise UsageError(f"this host has no pool '{name}'", f"its pools: {there_are}")


def _check_vlan(pool: Told, vlan: Optional[int]) -> None:
    if vlan is not None and vlan != pool["vlan"] and vlan not in pool["vlans"]:
        raise compatibility.vlan_refusal(vlan, pool["name"])


def _network(session: Session, pool: Told) -> Optional[str]:
    name: Optional[str] = pool["network"]
    if name is not None and not session.runs_network(name):
        raise Refused(
            f"libvirt's network '{name}' of pool '{pool['name']}' does not run",
            f"run: vfmigrate provision {pool['name']}",
        )
    return name


def _free(pool: Told) -> list[PciAddress]:
    return [
        PciAddress.parse(vf["address"]) for pf in pool["pfs"] for vf in pf["vfs"] if vf["state"] == "free"
    ]


def _check_free(pool: Told, free: list[PciAddress]) -> None:
    if free:
        return
    vfs = [vf for pf in pool["pfs"] for vf in pf["vfs"]]
    if not vfs:
        raise Refused(f"pool '{pool['name']}' has no VFs on this host", "run: vfmigrate provision")
    taken = "; ".join(f"{vf['address']} {vf['guest'] or vf['holder'] or vf['state']}" for vf in vfs)
    raise Refused(
        f"pool '{pool['name']}' has no free VF on this host: {taken}",
        "move or shut down one of these guests, or add VFs",
    )


def _check_guest(work: GuestChange, wish: Attachment) -> None:
    """Raises Refused for a guest that cannot have this VF."""
    for xml in (work.after, attachment.attached(work.session.live(work.name), wish) if work.live else None):
        if xml is not None and wish.strategy in (None, "vfio"):
            guest = domain_xml.read(xml)
            compatibility.check_guest(guest, [vf for vf in guest.interfaces if vf.wanted_mac == wish.mac])
    if not work.live:
        return
    if wish.strategy == "failover":
        raise Refused(
            f"guest '{work.name}' runs, and a VF that has a standby is there from a guest's boot on",
            "add --config; then vfmigrate failover enable, and restart the guest",
        )
    attachment.check_free_port(work.session.live(work.name))


def _claim(work: GuestChange, wish: Attachment) -> Attachment:
    """Have the daemon choose a VF: it has the last word on which is free."""
    claimed = work.ask(
        "claim",
        domain=work.uuid,
        name=work.name,
        mac=wish.mac,
        pool=wish.pool,
        strategy=wish.strategy or "vfio",
        vlan=wish.vlan,
        plug=True,
    )
    work.undoing("give the VF back", lambda: work.give_back(wish.mac))
    return replace(wish, vf=PciAddress.parse(claimed["vf"]))


def _plug(work: GuestChange, wish: Attachment) -> None:
    """Plug the VF into the running guest and its port into the bridge."""
    marks = work.marks()
    work.session.stamp(work.name, (*marks, wish.mark()))
    work.undoing("put the metadata back", lambda: work.session.stamp(work.name, marks))
    work.plug("\n".join(wish.device()))
    work.undoing("unplug the VF again", lambda: work.unplug(wish.mac))
    if wish.network is None:
        work.ask("keep", domain=work.uuid, mac=wish.mac)
    else:
        # libvirt chose the VF and told nobody: the daemon finds it when it compares.
        work.ask("reconcile")
    _check_claim(work, wish)


def _check_claim(work: GuestChange, wish: Attachment) -> None:
    told = work.ask("status")
    claim = work.claim(wish.mac, told)
    if claim is None or claim["state"] != "plugged":
        raise HostError(
            f"vfmigrated did not take over the VF with MAC {wish.mac} that libvirt gave guest '{work.name}'",
            "see journalctl -t vfmigrated",
        )
    (pool,) = [pool for pool in told["pools"] if pool["name"] == wish.pool]
    (vf,) = [vf for pf in pool["pfs"] for vf in pf["vfs"] if vf["address"] == claim["vf"]]
    if vf["bridge"] != pool["bridge"] or wish.vlan not in (None, vf["tag"]):
        where = f"{pool['bridge']}, VLAN {wish.vlan}" if wish.vlan is not None else pool["bridge"]
        raise HostError(
            f"VF {vf['address']} is not plugged into {where}: {' '.join(vf['problems'])}",
            "see journalctl -t vfmigrated",
        )
    vlan = f" in VLAN {claim['vlan']}" if claim["vlan"] is not None else ""
    work.done.append(f"plugged {claim['vf']} with MAC {wish.mac} into the running guest{vlan}")


# -- detach


def _detach(options: argparse.Namespace) -> int:
    with guest_change.begun(options) as work:
        networks = work.session.hostdev_networks()
        live = work.session.live(work.name, resolved=False) if work.live else None
        defined = _chosen(work.before, options.mac, networks)
        mac = options.mac or (defined.wanted_mac if defined is not None else None)
        plugged = _chosen(live, mac, networks)
        found = plugged or defined
        if found is None:
            which = f" with MAC {options.mac}" if options.mac is not None else ""
            raise Refused(f"guest '{work.name}' has no VF{which}", "see virsh domiflist")
        _check_alone(work.name, found)
        mac = _mac_of(work.name, found)
        if work.before is not None and defined is not None:
            work.after = attachment.detached(work.before, defined)
        if not work.dry_run:
            with work.all_or_nothing():
                work.define()
                if plugged is not None:
                    _unplug(work, mac)
        told = {
            "domain": work.name,
            "uuid": work.uuid,
            "mac": mac,
            "live": plugged is not None,
            "config": work.after is not None,
            "dry_run": work.dry_run,
        }
        device = domain_xml.device(live, plugged.position) if live is not None and plugged is not None else ""
        work.show(told, device, as_json=options.json)
    return 0


def _chosen(xml: Optional[str], mac: Optional[str], networks: frozenset[str]) -> Optional[VfInterface]:
    """The VF that is meant in a definition or a running guest; None when that has no such VF."""
    if xml is None:
        return None
    guest = domain_xml.read(xml)
    devices = list(Markup(xml).root.all("devices/*"))
    if mac is None and not guest.interfaces:
        return None
    if mac is not None and all(each.wanted_mac != mac for each in guest.interfaces):
        return None
    return chosen(guest, devices, mac, networks)


def _check_alone(name: str, vf: VfInterface) -> None:
    if vf.teaming is not None:
        raise Refused(
            f"the VF with MAC {vf.wanted_mac} of guest '{name}' is half of a failover pair",
            f"first run: vfmigrate failover disable {name} --mac {vf.wanted_mac}",
        )


def _mac_of(name: str, vf: VfInterface) -> str:
    if vf.wanted_mac is None:
        raise InputError(
            f"VF {vf.address} of guest '{name}' has no MAC by which it could be found",
            "unplug it yourself: virsh detach-device",
        )
    return vf.wanted_mac


def _unplug(work: GuestChange, mac: str) -> None:
    work.unplug(mac)
    work.unmark(mac)
    work.done.append(f"unplugged the VF with MAC {mac} from the running guest")
