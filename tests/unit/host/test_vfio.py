# SPDX-License-Identifier: GPL-2.0-or-later
"""A VF asked through VFIO by a program under the shim that acts as the kernel, with the kernel's own headers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.fakes import preload
from vfmigrate.errors import HostError
from vfmigrate.host.vfio import Vfio, VfioNodes
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport

VF = "0000:01:00.2"
BY_GROUP = ("vfio/7", None)
BY_DEVICE = (None, "vfio/devices/vfio3")
LIBRARY = Path(__file__).parents[3] / "lib"

# Asks, prints the answer or the refusal, and what is still open below the directory of the nodes.
PROGRAM = """
import dataclasses, json, os, sys
from pathlib import Path
from vfmigrate.errors import HostError
from vfmigrate.host.vfio import Vfio, VfioNodes
from vfmigrate.model.pci import PciAddress
dev, vf, group, device = sys.argv[1:]
said = {}
try:
    nodes = VfioNodes(group or None, device or None)
    said["answer"] = dataclasses.asdict(Vfio(Path(dev)).ask(PciAddress.parse(vf), nodes, "a_driver"))
except HostError as error:
    said["refusal"] = str(error)
links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
said["open"] = [os.readlink(link) for link in links if os.path.lexists(link) and os.readlink(link).startswith(dev)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preload.build("vfio_shim", tmp_path_factory.mktemp("shim"))


@dataclass
class Machine:
    """Device nodes of VFIO, as files that say how a VF answers."""

    dev: Path
    shim: Path

    def node(self, name: str, answer: str) -> None:
        """Make a node; for what it answers, see the shim."""
        path = self.dev / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(answer)

    def ask(self, nodes: tuple[Optional[str], Optional[str]], vf: str = VF) -> dict[str, Any]:
        """What the program prints."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(self.dev), vf, *(node or "" for node in nodes)],
            env={
                **os.environ,
                "LD_PRELOAD": str(self.shim),
                "FAKE_VFIO": str(self.dev / "vfio"),
                "PYTHONPATH": str(LIBRARY),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(json.loads(done.stdout))


@pytest.fixture
def machine(tmp_path: Path, shim: Path) -> Machine:
    machine = Machine(tmp_path / "dev", shim)
    machine.node("vfio/vfio", "")
    machine.node("iommu", "")
    return machine


@pytest.mark.parametrize(("nodes", "node"), [(BY_GROUP, BY_GROUP[0]), (BY_DEVICE, BY_DEVICE[1])])
@pytest.mark.parametrize(
    ("answer", "support"),
    [
        ("7 1 4194304 1", MigrationSupport("a_driver", True, True, True, True, 4 << 20)),
        ("1 0 0 1", MigrationSupport("a_driver", True, data_size=0)),
        ("3 1 -1 1", MigrationSupport("a_driver", True, True, False, True, None)),
        ("0 0 -1 1", MigrationSupport("a_driver")),
        ("0 1 -1 1", MigrationSupport("a_driver", dma_logging=True)),
    ],
    ids=["all", "stop-copy", "no size", "nothing", "logging only"],
)
def test_the_answers_of_a_driver(
    machine: Machine,
    nodes: tuple[Optional[str], Optional[str]],
    node: str,
    answer: str,
    support: MigrationSupport,
) -> None:
    machine.node(node, f"{VF} {answer}")
    said = machine.ask(nodes)
    assert MigrationSupport(**said["answer"]) == support
    assert said["open"] == []


def test_the_group_is_used_where_there_are_both(machine: Machine) -> None:
    machine.node("vfio/7", f"{VF} 1 0 -1 1")
    machine.node("vfio/devices/vfio3", f"{VF} 7 1 9 1")
    assert machine.ask((BY_GROUP[0], BY_DEVICE[1]))["answer"]["p2p"] is False


def test_without_a_group_node_the_device_is_used(machine: Machine) -> None:
    machine.node("vfio/devices/vfio3", f"{VF} 7 1 9 1")
    assert machine.ask((BY_GROUP[0], BY_DEVICE[1]))["answer"]["p2p"] is True


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        # VFIO_GROUP_GET_STATUS (3), of a group with a device that has a host driver
        ("1 0 -1 0", f"VF {VF} shares its IOMMU group with devices that have host drivers; see ls "),
        # VFIO_GROUP_GET_DEVICE_FD (6): EBUSY
        ("1 0 -1 1 6 16", "Device or resource busy; see which process uses it: fuser"),
        # VFIO_DEVICE_FEATURE (17): EPERM, EIO
        ("1 0 -1 1 17 1", "Operation not permitted; see DeviceAllow="),
        ("1 0 -1 1 17 5", f"VF {VF} cannot be asked through VFIO: Input/output error; see dmesg"),
    ],
)
def test_a_refusal_names_the_vf_and_leaves_nothing_open(machine: Machine, answer: str, said: str) -> None:
    machine.node("vfio/7", f"{VF} {answer}")
    told = machine.ask(BY_GROUP)
    assert said in told["refusal"]
    assert VF in told["refusal"]
    assert told["open"] == []


def test_the_device_of_another_group(machine: Machine) -> None:
    machine.node("vfio/7", "0000:01:00.3 1 0 -1 1")
    assert "No such device; load the driver of the IOMMU" in machine.ask(BY_GROUP)["refusal"]


def test_a_vf_without_nodes(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"VF {VF} has no device node of VFIO; see ls -l /dev/vfio"):
        Vfio(tmp_path).ask(PciAddress.parse(VF), VfioNodes("vfio/7", "vfio/devices/vfio3"), "a_driver")


def test_a_node_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "vfio/7").mkdir(parents=True)  # opening a directory for writing fails for root, too
    (tmp_path / "vfio/vfio").touch()
    with pytest.raises(HostError, match=f"{tmp_path}/vfio/7: Is a directory"):
        Vfio(tmp_path).ask(PciAddress.parse(VF), VfioNodes("vfio/7"), "a_driver")


@pytest.mark.parametrize(
    ("support", "text"),
    [
        (MigrationSupport("d"), "d offers no migration"),
        (MigrationSupport("d", stop_copy=True), "d: migration"),
        (
            MigrationSupport("d", True, True, True, True, 4 << 20),
            "d: P2P, pre-copy, DMA logging, 4 MiB of state",
        ),
        (MigrationSupport("d", True, data_size=300), "d: 300 bytes of state"),
        (MigrationSupport("d", True, p2p=True, data_size=3000), "d: P2P, 3 KiB of state"),
    ],
)
def test_an_answer_in_words(support: MigrationSupport, text: str) -> None:
    assert str(support) == text
