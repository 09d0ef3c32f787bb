# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host tells the engine of itself."""

from __future__ import annotations

from tests.unit.vdsm_plugin.vdsm import Vdsm, running


def test_the_host_reports_its_pools(vdsm: Vdsm) -> None:
    running(vdsm)
    caps = vdsm.hooks.json("after_get_caps", {"kvmEnabled": "true"})
    card = vdsm.memory.host.card(vdsm.memory.pf)
    assert caps["kvmEnabled"] == "true"
    assert caps["vfmigrate"]["pools"] == [
        {
            "name": "data",
            "bridge": "br-data",
            "vfs": 4,
            "free": 3,
            "cards": [
                {
                    "pf": "0000:01:00.0",
                    "psid": card.psid,
                    "firmware": card.firmware,
                    "migrating": 0,
                    "max_migrating": 2,
                }
            ],
        }
    ]
    stats = vdsm.hooks.json("after_get_stats", {"cpuUser": "1"})
    assert stats == {"cpuUser": "1", "vfmigrate": {"data": {"vfs": 4, "free": 3}}}


def test_a_host_without_the_daemon_reports_its_other_capabilities(vdsm: Vdsm) -> None:
    vdsm.stop()
    for point in ("after_get_caps", "after_get_stats"):
        assert vdsm.hooks.json(point, {"a": 1}) == {"a": 1}
    assert {status for _, status, _ in vdsm.hooks.log} == {0}
    (vdsm.directory / "sock").unlink()
    vdsm.hooks.log.clear()
    assert vdsm.hooks.json("after_get_caps", {"a": 1}) == {"a": 1}
    assert vdsm.hooks.log == [("50_vfmigrate", 0, "")]
