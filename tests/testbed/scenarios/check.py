# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate check` finds each of the faults planted on both hosts and in guests, and gives a clean bill otherwise.

The guest with the VF is paused: nothing here needs it to run code, and its VF is as taken as any.
"""

from __future__ import annotations

import json
import time
from functools import partial
from subprocess import TimeoutExpired
from typing import Callable

from tests.testbed import expect, facts, terminal
from tests.testbed.faults_planted import CLEAR_FLAWS, GUEST_FLAWS, HOST_FAULTS, Expected, Fault, Flaw
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import PF, Host, Result
from tests.testbed.lab import Lab
from tests.testbed.report import Record
from tests.testbed.run import CommandError

NAME = "check"
TIMEOUT_S = 900

CHECK_S = 60
AT_LEAST = 15
# On hosts that are emulated, with the machine to themselves or not; a real one takes two seconds.
ENOUGH_MS = 30000
# The daemon may come first: it mends some faults by itself, at its next look.
ATTEMPTS = 2
# What provisioning says is left to the administrator.
OFFLOAD = "systemctl restart ovs-vswitchd.service"
GUEST = Guest("check-guest", 60, (Nic(mac="52:54:00:00:42:60", vlan=42, number=60, vf="0000:01:10.2"),))
DESTINATION = "qemu+tcp://{address}/system"


def run(lab: Lab, record: Record) -> None:
    """Ask for a clean bill, plant fault after fault, and ask for a clean bill again."""
    record.mac = GUEST.nics[0].mac
    with terminal.step("Open vSwitch is restarted for hardware offload"):
        lab.on_both(lambda host: host.run(OFFLOAD, CHECK_S))
    with terminal.step("guest with a VF is created on host A"):
        lab.create_guest(lab.a, GUEST, paused=True)
        expect.plugged(lab, GUEST, lab.a)
    found: dict[str, str] = {}
    missed: list[str] = []
    times: list[float] = []
    record.measured.update(found=found, missed=missed, clean_ms=times)
    try:
        with terminal.step("check gives a clean bill"):
            bill(lab, times, missed)
        for fault in HOST_FAULTS:
            with terminal.step(f"planted: {fault.name}"):
                attempt(found, missed, fault.name, partial(planted, lab, fault))
        for flaw in GUEST_FLAWS:
            with terminal.step(f"planted in a guest: {flaw.name}"):
                attempt(found, missed, flaw.name, partial(flawed, lab, flaw))
        with terminal.step("check gives a clean bill again"):
            bill(lab, times, missed)
        with terminal.step("planted: the guest's VF is bound before it is made migratable"):
            attempt(found, missed, "bound too early", partial(bound_early, lab))
    finally:
        lab.a.result(CLEAR_FLAWS)
        lab.a.result("virsh undefine flawed")
        lab.destroy(GUEST)
    expect.that(
        not missed, f"{len(found)} planted faults were found; not as they must be: {'; '.join(missed)}"
    )
    expect.that(len(found) >= AT_LEAST, f"only {len(found)} faults were planted and found")
    expect.that(min(times) <= ENOUGH_MS, f"check took {min(times):.0f} ms")


def bill(lab: Lab, times: list[float], missed: list[str]) -> None:
    """Ask for a clean bill; without one, faults are planted all the same."""
    try:
        times.append(await_clean(lab))
    except (expect.ScenarioError, TimeoutExpired) as error:
        missed.append(f"clean bill: {error}")


def attempt(found: dict[str, str], missed: list[str], name: str, plant: Callable[[], dict[str, str]]) -> None:
    """Plant a fault; one that is not found does not keep the next from being planted."""
    why = ""
    for _ in range(ATTEMPTS):
        try:
            found.update(plant())
            return
        except (expect.ScenarioError, CommandError, TimeoutExpired) as error:
            why = " ".join(str(error).split())
    missed.append(f"{name}: {why}")
    terminal.console.print(f"[red]not found[/red]: {why}", soft_wrap=True)


def ask(lab: Lab, guest: str, *options: str) -> Result:
    """What `vfmigrate check` on host A says of a guest's move to host B."""
    uri = DESTINATION.format(address=lab.b.address)
    return lab.a.result(f"vfmigrate check {' '.join(options)} {guest} {uri}", CHECK_S)


def told(result: Result) -> list[dict[str, str]]:
    """The lines of an answer in JSON."""
    try:
        return list(json.loads(result.stdout)["checks"])
    except (ValueError, KeyError):
        raise expect.ScenarioError(f"vfmigrate check said: {result.stdout} {result.stderr}") from None


def clean(lab: Lab) -> float:
    """Expect a clean bill; returns how long it took, in ms."""
    result = ask(lab, GUEST.name, "--json")
    bad = [line for line in told(result) if line["severity"] != "ok"]
    expect.that(not bad, f"no clean bill: {bad}")
    expect.that(result.status == 0, f"a clean bill came with exit status {result.status}")
    return round(result.seconds * 1000)


def await_clean(lab: Lab) -> float:
    """Expect a clean bill, once the daemons had time for what was mended; returns how long it took, in ms."""
    deadline = time.monotonic() + CHECK_S
    while True:
        try:
            return clean(lab)
        except expect.ScenarioError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def expect_line(result: Result, expected: Expected) -> str:
    """Expect a line in an answer, and the exit status to agree; returns what it says."""
    lines = told(result)
    for line in lines:
        asked = (line["side"], line["check"], line["severity"])
        if asked == expected.line() and expected.names in line["text"]:
            errors = any(line["severity"] == "error" for line in lines)
            expect.that(result.status == int(errors), f"the exit status is {result.status}")
            return line["text"]
    bad = [f"{line['side']} {line['check']}: {line['text']}" for line in lines if line["severity"] != "ok"]
    raise expect.ScenarioError(f"it says only: {bad}")


def planted(lab: Lab, fault: Fault) -> dict[str, str]:
    """Plant a fault of a host and mend it; returns what was said of it."""
    host: Host = lab.a if fault.host == "a" else lab.b
    try:
        host.run(fault.plant)
        return {fault.name: expect_line(ask(lab, GUEST.name, "--json"), fault.expected)}
    finally:
        host.run(fault.mend, CHECK_S)


def flawed(lab: Lab, flaw: Flaw) -> dict[str, str]:
    """Define a guest with a fault on host A; returns what was said of it."""
    lab.a.run(flaw.plant)
    lab.a.write("/root/flawed.xml", flaw.xml("0000:01:10.4", "/usr/bin/qemu-system-x86_64"))
    lab.a.run("virsh define /root/flawed.xml")
    try:
        text = expect_line(ask(lab, "flawed", "--json"), flaw.expected)
    finally:
        lab.a.run("virsh undefine flawed")
    return {flaw.name: text}


def bound_early(lab: Lab) -> dict[str, str]:
    """Take the flag from the running guest's VF, and give it back: nobody knows what the driver read by then."""
    seen = facts.look(lab.a)
    vf = seen.vfs[lab.vf_addresses(GUEST, lab.a)[GUEST.nics[0].mac]]
    shown = json.loads(lab.a.run("devlink -j port show"))["port"]
    port = next(
        name
        for name, each in shown.items()
        if name.startswith(f"pci/{PF}/") and each.get("vfnum") == vf.index
    )
    lab.a.run(f"devlink port function set {port} migratable disable")
    try:
        off = expect_line(
            ask(lab, GUEST.name, "--json"), Expected("source", "vf", "error", "is not migratable")
        )
        lab.a.run("vfmigrate reconcile")
    finally:
        lab.a.run(f"devlink port function set {port} migratable enable")
    again = expect_line(ask(lab, GUEST.name, "--json"), Expected("source", "vf", "error", "bound before"))
    return {"not migratable": off, "bound too early": again}
