# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that libvirt's XML names."""

from __future__ import annotations

import pytest

from vfmigrate.domain import storage_xml

DOMAIN = """<domain><devices>
<disk type='file'><source file='/srv/a'/><target dev='vda'/></disk>
<disk type='block'><source dev='/dev/vg/b'/><target dev='vdb'/></disk>
<disk type='network'><source protocol='rbd' name='pool/c'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
</devices></domain>"""


def test_the_paths_of_a_domains_disks_are_read() -> None:
    assert storage_xml.disks(DOMAIN) == ["/srv/a", "/dev/vg/b"]
    assert storage_xml.disks("nonsense") == []


@pytest.mark.parametrize(
    ("xml", "directory"),
    [
        ("<pool type='dir'><target><path>/srv/images/</path></target></pool>", "/srv/images"),
        ("<pool type='rbd'/>", None),
        ("<pool><target><path>relative</path></target></pool>", None),
        ("nonsense", None),
    ],
)
def test_the_directory_of_a_storage_pool_is_read(xml: str, directory: str) -> None:
    assert storage_xml.pool_target(xml) == directory
