# SPDX-License-Identifier: GPL-2.0-or-later
"""Which devices migrate: each kind once, as libvirt and QEMU treat it."""

from __future__ import annotations

import pytest
from lxml import etree

from vfmigrate.domain import device_kinds
from vfmigrate.domain.device_kinds import Verdict

FINE, UNKNOWN, BLOCKS = Verdict.MIGRATES, Verdict.UNKNOWN, Verdict.BLOCKS
#: each device, its verdict, and words that the finding must contain
TABLE = {
    "<disk type='file'><source file='/a'/><target dev='vda'/></disk>": (FINE, ""),
    "<disk type='file' device='cdrom'><target dev='sda'/></disk>": (FINE, ""),
    "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>": (
        UNKNOWN,
        "disk of type volume (vda): is in a storage pool",
    ),
    "<disk type='volume' device='cdrom'><target dev='sda'/></disk>": (FINE, ""),
    "<disk type='dir'><source dir='/d'/><target dev='fda'/></disk>": (UNKNOWN, "a directory of this host"),
    "<disk type='nvme'><source namespace='1'/><target dev='vda'/></disk>": (BLOCKS, "cannot migrate"),
    "<disk type='vhostuser'><source type='unix'/></disk>": (UNKNOWN, "the same server"),
    "<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-0'/></disk>": (UNKNOWN, "if its driver can"),
    "<disk type='file'><source file='/a'/><transient/></disk>": (BLOCKS, "is transient"),
    "<disk type='tape'><source file='/a'/></disk>": (UNKNOWN, "does not know"),
    "<filesystem><driver type='virtiofs'/><target dir='tag'/></filesystem>": (
        UNKNOWN,
        "filesystem of type virtiofs (tag): migrates only with",
    ),
    "<filesystem><target dir='tag'/></filesystem>": (BLOCKS, "while the guest has it mounted"),
    "<tpm><backend type='passthrough'/></tpm>": (BLOCKS, "keeps its keys"),
    "<tpm><backend type='emulator'/></tpm>": (FINE, ""),
    "<tpm><backend type='external'/></tpm>": (UNKNOWN, "the same server"),
    "<shmem name='s'/>": (BLOCKS, "only with role='master'"),
    "<shmem name='s' role='peer'/>": (BLOCKS, "only with role='master'"),
    "<shmem name='s' role='master'/>": (UNKNOWN, "stay behind"),
    "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>": (UNKNOWN, "if its driver can"),
    "<interface type='direct'><source dev='eth0'/></interface>": (UNKNOWN, "the same network device"),
    "<interface type='vhostuser'/>": (UNKNOWN, "the same server"),
    "<interface type='ethernet'/>": (UNKNOWN, "its network device"),
    "<interface type='bridge'/>": (FINE, ""),
    "<smartcard mode='host'/>": (BLOCKS, "uses a device of this host"),
    "<smartcard mode='host-certificates'/>": (UNKNOWN, "a file of this host"),
    "<smartcard mode='passthrough' type='spicevmc'/>": (FINE, ""),
    "<hostdev type='usb'/>": (UNKNOWN, "the other host must have it too"),
    "<hostdev type='pci'/>": (FINE, ""),
    "<hostdev type='scsi'/>": (BLOCKS, "cannot migrate"),
    "<hostdev type='scsi_host'/>": (BLOCKS, "cannot migrate"),
    "<hostdev type='mdev'/>": (UNKNOWN, "if its driver can"),
    "<hostdev mode='capabilities' type='storage'/>": (BLOCKS, "cannot migrate"),
    "<graphics type='egl-headless'/>": (UNKNOWN, "graphics card"),
    "<graphics type='vnc'/>": (FINE, ""),
    "<video><model type='virtio'><acceleration accel3d='yes'/></model></video>": (BLOCKS, "3D"),
    "<video><model type='virtio'/></video>": (FINE, ""),
    "<rng><backend model='egd'/></rng>": (UNKNOWN, "the same server"),
    "<memory model='sgx-epc'/>": (BLOCKS, "processor"),
    "<memory model='nvdimm'/>": (UNKNOWN, "a file of this host"),
    "<input type='evdev'/>": (UNKNOWN, "one of this host"),
    "<serial type='dev'/>": (UNKNOWN, "one of this host"),
    "<serial type='pty'/>": (FINE, ""),
    "<redirdev type='tcp'/>": (UNKNOWN, "the same server"),
    "<memballoon model='virtio'/>": (FINE, ""),
    "<teleporter type='new'/>": (UNKNOWN, "<teleporter>: is of a kind that vfmigrate does not know"),
}


@pytest.mark.parametrize("xml", TABLE)
def test_each_kind_is_judged_or_said_to_be_unknown(xml: str) -> None:
    verdict, found = device_kinds.judge(etree.fromstring(xml))
    expected, words = TABLE[xml]
    assert verdict is expected
    assert (found is None) == (expected is FINE)
    if found is not None:
        assert found.blocks == (expected is BLOCKS)
        assert words in f"{found.name}: {found.why}"
