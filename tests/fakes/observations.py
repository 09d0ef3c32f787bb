# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel's sysfs does when SR-IOV and driver attributes are written; the fake must do the same.

The same list runs on the fake and on a real kernel and is compared with one table, EXPECTED, which was recorded on
Linux 6.12 with an emulated igb. It needs the standard library only, so that it can be copied to a host and run there:

    python3 observations.py 0000:01:00.0 igbvf vfio-pci

names a PF, the driver that its VFs bind to by default, and another driver that binds a VF by driver_override only. It
prints the differences and exits with 1 if there are any. The PF must have no VFs in use; afterwards it has no VFs.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional, Union

Observation = tuple[str, Union[str, bool, None]]

ABSENT = "0000:99:00.0"
PATIENCE_S = 10.0

EXPECTED: dict[str, Union[str, bool, None]] = {
    "numvfs 99": "ERANGE",
    "numvfs abc": "EINVAL",
    "numvfs -1": "EINVAL",
    "write totalvfs": "EACCES",
    "autoprobe 1": "ok",
    "autoprobe x": "EINVAL",
    "numvfs 2": "ok",
    "numvfs 3 while 2": "EBUSY",
    "numvfs 2 while 2": "ok",
    "driver of a new VF is the host's": True,
    "bind a bound device": "EBUSY",
    "unbind from another driver": "ENODEV",
    "unbind an absent device": "ENODEV",
    "unbind": "ok",
    "driver after unbind": None,
    "unbind an unbound device": "ENODEV",
    "bind to a driver that does not match": "ENODEV",
    "driver_override": "ok",
    "bind to a driver other than the override": "ENODEV",
    "drivers_probe": "ok",
    "driver after drivers_probe is the override": True,
    "drivers_probe of a bound device": "ok",
    "drivers_probe of an absent device": "ENODEV",
    "driver_override reads back": True,
    "clear driver_override": "ok",
    "driver_override when cleared": "(null)",
    "numvfs 0": "ok",
    "a VF is gone after numvfs 0": True,
    "autoprobe 0": "ok",
    "numvfs 1, autoprobe 0": "ok",
    "driver of a new VF, autoprobe 0": None,
    "bind to the host's driver, autoprobe 0": "ENODEV",
    "drivers_probe, autoprobe 0": "ok",
    "driver after drivers_probe, autoprobe 0": None,
    "driver_override, autoprobe 0": "ok",
    "drivers_probe with override, autoprobe 0": "ok",
    "driver after override, autoprobe 0, is the host's": True,
    "unbind the PF": "ok",
    "numvfs of a PF without driver": "ENOENT",
    "bind the PF": "ok",
}


class Bus:
    """The PCI bus of one sysfs, by plain reads and writes."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "bus/pci/devices"
        self.drivers = root / "bus/pci/drivers"
        self.drivers_probe = root / "bus/pci/drivers_probe"

    def driver(self, address: str) -> Optional[str]:
        """Name the driver of a device."""
        link = self.devices / address / "driver"
        return link.readlink().name if link.is_symlink() else None

    def first_vf(self, pf: str) -> str:
        """Give the address of the PF's VF number 0."""
        return (self.devices / pf / "virtfn0").readlink().name


def write(path: Path, text: str) -> str:
    """Write to an attribute; `ok` or the name of the error."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait for a condition: a driver may have to be loaded by udev first."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def observe(root: Path, pf: str, host_driver: str, other_driver: str) -> dict[str, Union[str, bool, None]]:
    """Make all observations, in order; leaves the PF without VFs and with autoprobe as it was."""
    bus = Bus(root)
    autoprobe = bus.devices / pf / "sriov_drivers_autoprobe"
    before = autoprobe.read_text()
    try:
        return {
            **dict(_numbers(bus, pf)),
            **dict(_binding(bus, pf, host_driver, other_driver)),
            **dict(_without_autoprobe(bus, pf, host_driver)),
            **dict(_without_driver(bus, pf)),
        }
    finally:
        write(bus.devices / pf / "sriov_numvfs", "0")
        write(autoprobe, before)


def _numbers(bus: Bus, pf: str) -> Iterator[Observation]:
    attributes = bus.devices / pf
    for number in ("99", "abc", "-1"):
        yield f"numvfs {number}", write(attributes / "sriov_numvfs", number)
    # Root can open a read-only file for writing if the file system allows it; writing then fails in sysfs.
    yield "write totalvfs", write(attributes / "sriov_totalvfs", "1")
    yield "autoprobe 1", write(attributes / "sriov_drivers_autoprobe", "1")
    yield "autoprobe x", write(attributes / "sriov_drivers_autoprobe", "x")


def _binding(bus: Bus, pf: str, host_driver: str, other_driver: str) -> Iterator[Observation]:
    numvfs = bus.devices / pf / "sriov_numvfs"
    yield "numvfs 2", write(numvfs, "2")
    yield "numvfs 3 while 2", write(numvfs, "3")
    yield "numvfs 2 while 2", write(numvfs, "2")
    vf = bus.first_vf(pf)
    override = bus.devices / vf / "driver_override"
    yield "driver of a new VF is the host's", comes_true(lambda: bus.driver(vf) == host_driver)
    yield "bind a bound device", write(bus.drivers / host_driver / "bind", vf)
    yield "unbind from another driver", write(bus.drivers / other_driver / "unbind", vf)
    yield "unbind an absent device", write(bus.drivers / host_driver / "unbind", ABSENT)
    yield "unbind", write(bus.drivers / host_driver / "unbind", vf)
    yield "driver after unbind", bus.driver(vf)
    yield "unbind an unbound device", write(bus.drivers / host_driver / "unbind", vf)
    yield "bind to a driver that does not match", write(bus.drivers / other_driver / "bind", vf)
    yield "driver_override", write(override, other_driver)
    yield "bind to a driver other than the override", write(bus.drivers / host_driver / "bind", vf)
    yield "drivers_probe", write(bus.drivers_probe, vf)
    yield "driver after drivers_probe is the override", bus.driver(vf) == other_driver
    yield "drivers_probe of a bound device", write(bus.drivers_probe, vf)
    yield "drivers_probe of an absent device", write(bus.drivers_probe, ABSENT)
    yield "driver_override reads back", override.read_text().strip() == other_driver
    yield "clear driver_override", write(override, "\n")
    yield "driver_override when cleared", override.read_text().strip()
    yield "numvfs 0", write(numvfs, "0")
    yield "a VF is gone after numvfs 0", not (bus.devices / vf).exists()


def _without_autoprobe(bus: Bus, pf: str, host_driver: str) -> Iterator[Observation]:
    attributes = bus.devices / pf
    yield "autoprobe 0", write(attributes / "sriov_drivers_autoprobe", "0")
    yield "numvfs 1, autoprobe 0", write(attributes / "sriov_numvfs", "1")
    vf = bus.first_vf(pf)
    yield "driver of a new VF, autoprobe 0", bus.driver(vf)
    yield "bind to the host's driver, autoprobe 0", write(bus.drivers / host_driver / "bind", vf)
    yield "drivers_probe, autoprobe 0", write(bus.drivers_probe, vf)
    yield "driver after drivers_probe, autoprobe 0", bus.driver(vf)
    yield "driver_override, autoprobe 0", write(bus.devices / vf / "driver_override", host_driver)
    yield "drivers_probe with override, autoprobe 0", write(bus.drivers_probe, vf)
    yield "driver after override, autoprobe 0, is the host's", bus.driver(vf) == host_driver
    write(attributes / "sriov_numvfs", "0")


def _without_driver(bus: Bus, pf: str) -> Iterator[Observation]:
    driver = bus.driver(pf)
    assert driver is not None, "the PF has no driver"
    yield "unbind the PF", write(bus.drivers / driver / "unbind", pf)
    yield "numvfs of a PF without driver", write(bus.devices / pf / "sriov_numvfs", "1")
    yield "bind the PF", write(bus.drivers / driver / "bind", pf)


def differences(seen: dict[str, Union[str, bool, None]]) -> list[str]:
    """List what differs from EXPECTED or is missing, one line each."""
    names = [*EXPECTED, *(name for name in seen if name not in EXPECTED)]
    return [
        f"{name}: expected {json.dumps(EXPECTED.get(name))}, saw {json.dumps(seen.get(name))}"
        for name in names
        if name not in seen or name not in EXPECTED or seen[name] != EXPECTED[name]
    ]


def main() -> int:
    """Run the observations on this host and print what differs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("pf", help="address of an SR-IOV physical function without VFs in use")
    parser.add_argument("host_driver", help="the driver its VFs bind to by themselves")
    parser.add_argument("other_driver", help="a driver that takes them by driver_override only")
    parser.add_argument("--root", type=Path, default=Path("/sys"), help="where sysfs is mounted")
    arguments = parser.parse_args()
    seen = observe(arguments.root, arguments.pf, arguments.host_driver, arguments.other_driver)
    different = differences(seen)
    print(*different, f"{len(seen)} observations, {len(different)} differ", sep="\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
