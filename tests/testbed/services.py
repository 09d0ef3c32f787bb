# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes that run guests on a host, which must not change when packages are installed or removed."""

from __future__ import annotations

from dataclasses import dataclass

from tests.testbed.guest import Guest
from tests.testbed.host import Host

SCRIPT = """
echo "libvirtd $(systemctl show --property=MainPID --value libvirtd.service)"
echo "guest $(cat /run/libvirt/qemu/{guest}.pid 2> /dev/null)"
echo "daemon $(systemctl show --property=MainPID --value vfmigrated.service)"
echo "socket $(systemctl show --property=ActiveEnterTimestampMonotonic --value vfmigrated.socket)"
"""

# Everything with vfmigrate's name, and links to it, except the test bed's own files and rpm's database. Units that are
# only referred to (udev keeps the properties of the card until the next boot) do not count.
TRACES = """
find / -xdev \\( -path /testbed -o -path /root -o -path /var/lib/rpm -o -path /var/log \\) \\
    -prune -o \\( -name '*vfmigrate*' -o -lname '*vfmigrate*' \\) -print
find /run -name '*vfmigrate*'
systemctl list-units --state=active,activating,failed --plain --no-legend 'vfmigrate*' | sed 's/ .*//; s/^/unit /'
"""


@dataclass(frozen=True)
class Services:
    """Process IDs (the guest's is empty where it is not); since when the daemon's socket listens, in µs since boot."""

    libvirtd: str
    guest: str
    daemon: str
    socket: str


def look(host: Host, guest: Guest) -> Services:
    """Ask a host."""
    lines = (line.partition(" ") for line in host.run(SCRIPT.format(guest=guest.name)).splitlines())
    found = {name: value for name, _, value in lines}
    return Services(found["libvirtd"], found["guest"], found["daemon"], found["socket"])


def traces(host: Host) -> set[str]:
    """Files, links and units with the product's name on a host."""
    return set(host.run(TRACES).splitlines())
