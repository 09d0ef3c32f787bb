# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of provisioning that comes before the network is configured: the eswitch mode of cards without VFs.

A card offloads a bond of its ports (VF-LAG) when their eswitches are in switchdev mode before the bond is made, and
NetworkManager makes it as soon as it starts. At that time neither Open vSwitch nor libvirt runs, nor vfmigrated, which
waits for Open vSwitch. So this needs sysfs, devlink and rtnetlink only; VFs are made and bound by the provisioning that
follows. It touches no PF that somebody may use by now: none that has VFs, is enslaved, or whose port has an address.
"""

from __future__ import annotations

import time

from vfmigrate.config.configuration import Config
from vfmigrate.converge import uplinks
from vfmigrate.converge.observe import Host
from vfmigrate.errors import HostError, Refused, VfmigrateError
from vfmigrate.host.udev import Udev
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.polling import until
from vfmigrate.provision.pf import POLL_SECONDS, SWITCHDEV

_LATER = "vfmigrate-provision.service changes it later, unless guests use the card: see vfmigrate status"


class EarlyProvisioner:
    """Changes the mode of the PFs of all pools; `patience` in seconds is for how long cards may still be missing."""

    def __init__(self, config: Config, host: Host, udev: Udev, log: Journal, *, patience: float) -> None:
        self._config = config
        self._host = host
        self._udev = udev
        self._log = log
        self._patience = patience

    def run(self) -> bool:
        """Do what can be done for each PF; returns whether all are in switchdev mode now. Logs what is not."""
        end = time.monotonic() + self._patience
        done = True
        for pool in self._config.pools.values():
            for address in pool.pfs:
                try:
                    self._prepare(pool.name, address, end - time.monotonic())
                except VfmigrateError as error:
                    done = False
                    about = f"pool '{pool.name}'"
                    self._log.failed("early-provision-failed", error, about=about, pool=pool.name)
        return done

    def _prepare(self, pool: str, address: PciAddress, seconds: float) -> None:
        if not until(lambda: self._has_appeared(address), max(seconds, 0.0), POLL_SECONDS):
            raise HostError(
                f"PF {address} did not appear within {self._patience:g} s", "see lspci -Dk and journalctl -k"
            )
        sysfs, devlink = self._host.sysfs, self._host.devlink
        if sysfs.is_infiniband(address) or not sysfs.is_pf(address):
            return  # provisioning reports it
        if sysfs.autoprobe(address):
            sysfs.set_autoprobe(address, False)
        if devlink.eswitch_mode(address) == SWITCHDEV:
            return
        self._refuse_if_used(address)
        devlink.set_eswitch_mode(address, SWITCHDEV)
        text = f"pool '{pool}': set the eswitch of PF {address} to switchdev"
        self._log.event("early-provision", text, pool=pool)

    def _has_appeared(self, address: PciAddress) -> bool:
        """Whether a driver runs the PF and its port has its name for good."""
        if not self._host.sysfs.exists(address) or self._host.sysfs.driver(address) is None:
            return False
        try:
            link = uplinks.physical_port(self._host, address)
        except HostError:  # the driver is not done yet
            return False
        return self._udev.settled(link.index)

    def _refuse_if_used(self, address: PciAddress) -> None:
        count = self._host.sysfs.numvfs(address)
        if count:
            raise Refused(
                f"PF {address} has {count} VFs already, so its eswitch is not changed before the network"
                " is configured",
                _LATER,
            )
        link = uplinks.physical_port(self._host, address)
        if link.master is not None:
            master = self._host.links.link(link.master).name
            raise Refused(
                f"{link.name}, the port of PF {address}, is a port of {master} already, so its eswitch is not changed"
                " before the network is configured",
                _LATER,
            )
        found = self._host.links.addresses().get(link.index)
        if found:
            raise Refused(
                f"{link.name}, the port of PF {address}, has the address {', '.join(found)} already, so its eswitch is"
                " not changed before the network is configured",
                _LATER,
            )
