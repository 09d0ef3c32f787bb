# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate check` reports each fault that is planted on the hosts and in guests, and nothing when there is none.

The guest with the VF is paused: nothing here needs it to run code, and its VF is in use all the same.
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
# On emulated hosts, whether the machine is busy or not; a real host takes two seconds.
ENOUGH_MS = 30000
# The daemon repairs some faults by itself when it reconciles, perhaps before `vfmigrate check` sees them.
ATTEMPTS = 2
# The command that provisioning leaves to the administrator.
OFFLOAD = "systemctl restart ovs-vswitchd.service"
GUEST = Guest("check-guest", 60, (Nic(mac="52:54:00:00:42:60", vlan=42, number=60, vf="0000:01:10.2"),))
ANSWER = "igb_vfio_pci: P2P, DMA logging"
DESTINATION = "qemu+tcp://{address}/system"


def run(lab: Lab, record: Record) -> None:
    """Expect no findings, plant one fault after the other, and expect no findings again."""
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
        with terminal.step("vfmigrate check has no findings"):
            bill(lab, times, missed)
        for fault in HOST_FAULTS:
            with terminal.step(f"planted: {fault.name}"):
                attempt(found, missed, fault.name, partial(planted, lab, fault))
        for flaw in GUEST_FLAWS:
            with terminal.step(f"planted in a guest: {flaw.name}"):
                attempt(found, missed, flaw.name, partial(flawed, lab, flaw))
        with terminal.step("vfmigrate check has no findings again"):
            bill(lab, times, missed)
        with terminal.step("planted: the guest's VF is bound before it is made migratable"):
            attempt(found, missed, "bound too early", partial(bound_early, lab))
    finally:
        lab.a.result(CLEAR_FLAWS)
        lab.a.result("virsh undefine flawed")
        lab.destroy(GUEST)
    expect.that(
        not missed, f"{len(found)} planted faults were found; wrong or not found: {'; '.join(missed)}"
    )
    expect.that(len(found) >= AT_LEAST, f"only {len(found)} faults were planted and found")
    expect.that(min(times) <= ENOUGH_MS, f"check took {min(times):.0f} ms")


def bill(lab: Lab, times: list[float], missed: list[str]) -> None:
    """Expect no findings; with some, the scenario goes on and fails at its end."""
    try:
        times.append(await_clean(lab))
    except (expect.ScenarioError, TimeoutExpired) as error:
        missed.append(f"without a fault: {error}")


def attempt(found: dict[str, str], missed: list[str], name: str, plant: Callable[[], dict[str, str]]) -> None:
    """Plant a fault; when it is not found, the scenario goes on and fails at its end."""
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
    """Run `vfmigrate check` on host A for a guest's migration to host B."""
    uri = DESTINATION.format(address=lab.b.address)
    return lab.a.result(f"vfmigrate check {' '.join(options)} {guest} {uri}", CHECK_S)


def told(result: Result) -> list[dict[str, str]]:
    """The checks in the JSON output."""
    try:
        return list(json.loads(result.stdout)["checks"])
    except (ValueError, KeyError):
        raise expect.ScenarioError(f"vfmigrate check said: {result.stdout} {result.stderr}") from None


def clean(lab: Lab) -> float:
    """Expect no findings; returns how long the command took, in ms."""
    result = ask(lab, GUEST.name, "--json")
    lines = told(result)
    bad = [line for line in lines if line["severity"] != "ok"]
    expect.that(not bad, f"findings without a fault: {bad}")
    expect.that(result.status == 0, f"no findings, and exit status {result.status}")
    # the kernel of each host answers for a free VF: the flags and features of igb_vfio_pci
    answers = [line["text"] for line in lines if line["check"] == "device"]
    able = [text for text in answers if f"VFs of PF {PF} can migrate ({ANSWER}, " in text]
    expect.that(len(able) == len(answers) == 2, f"of the free VFs it reports: {answers}")
    return round(result.seconds * 1000)


def await_clean(lab: Lab) -> float:
    """Expect no findings, after time for the daemons to reconcile; returns how long the command took, in ms."""
    deadline = time.monotonic() + CHECK_S
    while True:
        try:
            return clean(lab)
        except expect.ScenarioError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def expect_line(result: Result, expected: Expected) -> str:
    """Expect a check in the output and the exit status that goes with it; returns the text of the check."""
    lines = told(result)
    for line in lines:
        asked = (line["side"], line["check"], line["severity"])
        if asked == expected.line() and expected.names in line["text"]:
            errors = any(line["severity"] == "error" for line in lines)
            expect.that(result.status == int(errors), f"the exit status is {result.status}")
            return line["text"]
    bad = [f"{line['side']} {line['check']}: {line['text']}" for line in lines if line["severity"] != "ok"]
    raise expect.ScenarioError(f"it reports only: {bad}")


def planted(lab: Lab, fault: Fault) -> dict[str, str]:
    """Plant a fault on a host and repair it; returns what was reported."""
    host: Host = lab.a if fault.host == "a" else lab.b
    try:
        host.run(fault.plant)
        return {fault.name: expect_line(ask(lab, GUEST.name, "--json"), fault.expected)}
    finally:
        host.run(fault.mend, CHECK_S)


def flawed(lab: Lab, flaw: Flaw) -> dict[str, str]:
    """Define a guest with a fault on host A; returns what was reported."""
    lab.a.run(flaw.plant)
    lab.a.write("/root/flawed.xml", flaw.xml("0000:01:10.4", "/usr/bin/qemu-system-x86_64"))
    lab.a.run("virsh define /root/flawed.xml")
    try:
        text = expect_line(ask(lab, "flawed", "--json"), flaw.expected)
    finally:
        lab.a.run("virsh undefine flawed")
    return {flaw.name: text}


def bound_early(lab: Lab) -> dict[str, str]:
    """Clear the flag `migratable` of the running guest's VF and set it again: what the driver read is then unknown."""
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
