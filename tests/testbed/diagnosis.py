# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test bed saves of both hosts when a step or a scenario fails, under build/testbed/SCENARIO/.

Every question has a short deadline. A host that does not answer over ssh is looked at through the monitor of its QEMU.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.testbed.host import Host
from tests.testbed.namespace import RUN
from tests.testbed.run import CommandError

ANSWER_S = 10
COMMAND_S = 30

EACH_GUEST = "for name in $(timeout 10 virsh list --name); do"

# At the moment when a step fails, before the scenario cleans up: what runs, what waits, and what guests are doing.
MOMENT: Mapping[str, str] = {
    "processes": "uptime; ps -eo pid,ppid,stat,etimes,time,wchan:24,args --sort=-pcpu | head -n 80",
    "domains": f"virsh list --all; {EACH_GUEST} virsh domstate --reason $name; virsh domjobinfo $name; done",
    # twice, so that a guest whose processor stands still differs from one that is busy
    "guests": f'{EACH_GUEST} for what in status registers pic lapic registers lapic pci; do echo "$name: $what"; '
    "timeout 10 virsh qemu-monitor-command $name --hmp info $what; sleep 1; done; done",
    # whether frames and interrupts reach a guest that does not answer
    "counters": "ip -s link; grep vfio /proc/interrupts; sleep 3; ip -s link; grep vfio /proc/interrupts",
    "switch": "ovs-vsctl --timeout=10 show; timeout 10 ovs-appctl fdb/show br-data",
    "dmesg": "dmesg | tail -n 200",
}

# At the end of a scenario that failed: everything that was logged.
LOGS: Mapping[str, str] = {
    "journal": "journalctl --no-pager -o short-precise -b",
    "libvirtd": "cat /var/log/libvirtd.log",
    "qemu": "tail -n 200 /var/log/libvirt/qemu/*.log",
    "dmesg": "dmesg | tail -n 200",
    "ovs": "ovs-vsctl --timeout=10 show; tail -n 100 /var/log/openvswitch/*.log",
}

# What QEMU's monitor shows of a host that does not answer.
MONITOR = ("info status", "info cpus", "info registers -a", "info pic", "info block", "info network")


def save_moment(hosts: Iterable[Host], folder: Path, step: str, error: BaseException) -> None:
    """Save the state of the hosts at the moment when a step failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step").write_text(f"{step}\n{type(error).__name__}: {error}\n")
    save(hosts, folder, MOMENT)


def save_logs(hosts: Iterable[Host], folder: Path) -> None:
    """Save everything that the hosts logged, and the consoles."""
    save_consoles(folder)
    save(hosts, folder, LOGS)


def save(hosts: Iterable[Host], folder: Path, commands: Mapping[str, str]) -> None:
    """Save the output of commands on all hosts as FOLDER/HOST.NAME."""
    with ThreadPoolExecutor() as lanes:
        list(lanes.map(lambda host: save_host(host, folder, commands), hosts))


def save_host(host: Host, folder: Path, commands: Mapping[str, str]) -> None:
    """Save the output of commands on one host; without an answer over ssh, what QEMU's monitor shows."""
    silent = False
    for name, command in {"answers": "uptime", **commands}.items():
        try:
            text = answer(host, command, ANSWER_S if name == "answers" else COMMAND_S)
        except subprocess.TimeoutExpired as error:
            text = f"no answer within {error.timeout:.0f} s\n"
            silent = name == "answers"
        except (OSError, CommandError) as error:
            text = f"{error}\n"
        (folder / f"{host.hostname}.{name}").write_text(text)
        if silent:
            (folder / f"{host.hostname}.monitor").write_text(monitor(host))
            return


def answer(host: Host, command: str, timeout: float) -> str:
    """What a command on a host prints. Raises subprocess.TimeoutExpired."""
    result = host.result(command, timeout)
    return result.stdout + result.stderr


def monitor(host: Host) -> str:
    """What QEMU's monitor shows of a host: where its processors are, its disk and its NICs."""
    shown = []
    for command in MONITOR:
        try:
            text = host.ask_monitor(command)
        except OSError as error:
            text = str(error)
        shown.append(f"== {command}\n{text.strip()}\n")
    return "\n".join(shown)


def save_consoles(folder: Path) -> None:
    """Save what hosts and guests wrote to their consoles, which are lost when the run ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for console in (*RUN.glob("*.console"), *RUN.glob("*.qemu"), *(RUN / "shared").glob("*.console")):
        (folder / console.name).write_bytes(console.read_bytes())
