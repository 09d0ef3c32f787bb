# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate ovirt profile` with oVirt's real SDK: its XML writer and reader, its HTTP client, and a small engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import pytest
from ovirtsdk4.reader import Reader
from ovirtsdk4.writer import Writer

from vfmigrate.cli import main
from vfmigrate.ovirt import engine, vnic_profile
from vfmigrate.ovirt.vnic_profile import Change, Profile

NETWORKS = """<networks>
  <network id="n1"><name>net</name></network>
  <network id="n2"><name>mgmt</name></network>
  <network id="n3"><name>ext</name><external_provider id="p"/><port_isolation>true</port_isolation></network>
</networks>"""
PROFILES = {
    "1": """<vnic_profile id="1"><name>data</name><network id="n1"/><port_mirroring>false</port_mirroring>
      <pass_through><mode>disabled</mode></pass_through><migratable>true</migratable>
      <custom_properties><custom_property><name>queues</name><value>4</value></custom_property></custom_properties>
    </vnic_profile>""",
    "2": """<vnic_profile id="2"><name>standby</name><network id="n2"/><network_filter id="f"/></vnic_profile>""",
    "3": """<vnic_profile id="3"><name>vf</name><network id="n1"/><pass_through><mode>enabled</mode></pass_through>
      <migratable>false</migratable></vnic_profile>""",
    "4": '<vnic_profile id="4"><name>ovn</name><network id="n3"/><qos id="q"/></vnic_profile>',
}


class Handler(BaseHTTPRequestHandler):
    """The part of the engine's REST API that the SDK uses here."""

    updates: ClassVar[list[tuple[str, str]]] = []
    fault: ClassVar[str] = ""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.endswith("/networks"):
            self._answer(200, NETWORKS)
        elif path.endswith("/vnicprofiles"):
            self._answer(200, f"<vnic_profiles>{''.join(PROFILES.values())}</vnic_profiles>")
        else:
            self._answer(404, "<fault><reason>Not Found</reason></fault>")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.headers["Authorization"] != "Bearer secret":
            self._answer(401, "<fault><reason>Unauthorized</reason></fault>")
        elif self.fault:
            fault = f"<fault><reason>Operation Failed</reason><detail>{self.fault}</detail></fault>"
            self._answer(409, fault)
        else:
            self.updates.append((self.path.rsplit("/", 1)[1], body))
            self._answer(200, body)

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
        del format, args


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Fresh(Handler):
        updates: ClassVar[list[tuple[str, str]]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for key in ("OVIRT_USERNAME", "OVIRT_PASSWORD", "OVIRT_CAFILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OVIRT_URL", f"http://127.0.0.1:{server.server_port}/ovirt-engine/api")
    monkeypatch.setenv("OVIRT_TOKEN", "secret")
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


def canonical(xml: str) -> str:
    return ET.canonicalize(xml, strip_text=True)


def xml_of(before: Profile, after: Profile) -> str:
    """A change as the SDK writes it."""
    return canonical(Writer.write(engine.write(before, after), indent=False))


def read(xml: str) -> Profile:
    """A profile as the SDK reads it."""
    return engine.read(Reader.read(xml), None)


def test_profiles_are_read_from_the_sdks_objects() -> None:
    assert read(PROFILES["1"]) == Profile("1", "data", "?", properties={"queues": "4"})
    assert read(PROFILES["3"]) == Profile("3", "vf", "?", pass_through=True, migratable=False)
    pair = read(PROFILES["3"].replace("<migratable>false", '<failover id="2"/><migratable>true'))
    assert pair == Profile("3", "vf", "?", pass_through=True, failover="2")


def test_a_change_sends_only_what_differs() -> None:
    plain = read(PROFILES["1"])
    wanted = Change(properties={"vfmigrate_strategy": "vfio", "vfmigrate_pool": "data"})
    properties = "".join(
        f"<custom_property><name>{name}</name><value>{value}</value></custom_property>"
        for name, value in (("queues", "4"), ("vfmigrate_pool", "data"), ("vfmigrate_strategy", "vfio"))
    )
    assert xml_of(plain, vnic_profile.changed(plain, wanted)) == canonical(
        f"<vnic_profile><custom_properties>{properties}</custom_properties></vnic_profile>"
    )
    pair = vnic_profile.changed(plain, Change(pass_through=True, migratable=True, failover="2"))
    assert xml_of(plain, pair) == canonical(
        "<vnic_profile><migratable>true</migratable><pass_through><mode>enabled</mode></pass_through>"
        '<failover id="2"/></vnic_profile>'
    )
    # without passthrough the engine accepts no value of migratable
    assert xml_of(pair, replace(pair, pass_through=False)) == canonical(
        "<vnic_profile><pass_through><mode>disabled</mode></pass_through></vnic_profile>"
    )
    filtered = read(PROFILES["2"])
    passed = vnic_profile.changed(filtered, Change(pass_through=True, no_network_filter=True))
    assert xml_of(filtered, passed) == canonical(
        "<vnic_profile><migratable>true</migratable><pass_through><mode>enabled</mode></pass_through>"
        "<network_filter/></vnic_profile>"
    )
    assert xml_of(plain, plain) == canonical("<vnic_profile/>")


@pytest.mark.usefixtures("api")
def test_show_lists_the_profiles_as_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ovirt", "profile", "show"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "PROFILE       PASSTHROUGH  MIGRATABLE  FAILOVER  ID  PROPERTIES",
        "ext/ovn       no           yes         -         4   -",
        "mgmt/standby  no           yes         -         2   -",
        "net/data      no           yes         -         1   queues=4",
        "net/vf        yes          no          -         3   -",
    ]
    assert main.main(["ovirt", "profile", "show", "--json", "ovn"]) == 0
    told = capsys.readouterr().out
    assert '"external": true' in told
    assert '"qos": true' in told


def test_set_sends_the_change_once_and_a_dry_run_sends_none(
    api: type[Handler], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ovirt", "profile", "set", "data", "--strategy", "vfio", "--pool", "data", "--vlan", "43"]
    assert main.main([*command, "--dry-run"]) == 0
    assert api.updates == []
    assert main.main(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.replace("would change ", "changed ") for line in shown[:3]] == shown[3:]
    assert all(line.startswith("would change ") for line in shown[:3])
    ((profile, body),) = api.updates
    assert profile == "1"
    properties = {one.name: one.value for one in Reader.read(body).custom_properties}
    assert properties == {
        "queues": "4",
        "vfmigrate_strategy": "vfio",
        "vfmigrate_pool": "data",
        "vfmigrate_vlan": "43",
    }
    assert main.main(["ovirt", "profile", "set", "data", "--pass-through", "no"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert main.main(["ovirt", "profile", "set", "data", "--pass-through", "no", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"schema": 1, "profile": "data", "changes": [], "dry_run": False}


def test_set_failover_names_the_profile_by_its_id(api: type[Handler]) -> None:
    assert main.main(["ovirt", "profile", "set", "vf", "--failover", "standby", "--migratable", "yes"]) == 0
    ((_, body),) = api.updates
    sent: Any = Reader.read(body)
    assert (sent.migratable, sent.failover.id, sent.pass_through) == (True, "2", None)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["set", "vf", "--failover", "ovn", "--migratable", "yes"], 1, "its network 'ext' is external"),
        (["set", "vf", "--failover", "none"], 2, "cannot remove a failover"),
        (
            ["set", "standby", "--pass-through", "yes"],
            1,
            "has a network filter, which passthrough does not allow",
        ),
        (
            ["set", "data", "--strategy", "vfio", "--pool", "data", "--vlan", "5000"],
            2,
            "--vlan: '5000' is not",
        ),
        (["show", "absent"], 1, "no vNIC profile 'absent'"),
        (
            ["show", "--password-file", "/nonexistent/file"],
            65,
            "cannot read the password from /nonexistent/file",
        ),
    ],
)
def test_refusals_have_a_reason_and_send_nothing(
    api: type[Handler], capsys: pytest.CaptureFixture[str], words: list[str], status: int, told: str
) -> None:
    assert main.main(["ovirt", "profile", *words]) == status
    assert told in capsys.readouterr().err
    assert api.updates == []


def test_the_engines_refusal_is_shown(api: type[Handler], capsys: pytest.CaptureFixture[str]) -> None:
    api.fault = "[Cannot edit VM network interface profile. The profile is used by VMs: web.]"
    assert main.main(["ovirt", "profile", "set", "data", "--pass-through", "yes"]) == 69
    assert "change of vNIC profile 'data': [Cannot edit VM network" in capsys.readouterr().err


def test_a_missing_url_and_a_silent_engine_are_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OVIRT_URL", raising=False)
    assert main.main(["ovirt", "profile", "show"]) == 2
    assert "give --url or set OVIRT_URL" in capsys.readouterr().err
    monkeypatch.setenv("OVIRT_TOKEN", "secret")
    assert main.main(["ovirt", "profile", "show", "--url", "http://127.0.0.1:9/ovirt-engine/api"]) == 75
    assert "oVirt's engine: list of networks" in capsys.readouterr().err
