# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan for one VF: from any state to any wanted one, in the kernel's order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import VfState
from vfmigrate.converge.plan import Step, Verb, Wanted, WantedPort, done, steps, wanted
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import PortSettings, SwitchPort

DOMAIN = "22222222-2222-4222-8222-222222222222"
POOL = Pool("data", (PF,), "br-data", mtu=9000)

STATES = st.builds(
    VfState,
    vf=st.just(PciAddress(0, 1, 0x10, 0)),
    pf=st.just(PF),
    index=st.just(0),
    driver=st.sampled_from([None, "mlx5_core", "vfio-pci"]),
    vfio=st.just(False),
    in_use=st.just(False),
    port_index=st.just(1),
    hw_addr=st.sampled_from(["00:00:00:00:00:00", "52:54:00:00:00:02"]),
    migratable=st.booleans(),
    representor=st.just("rep0"),
    ifindex=st.just(7),
    link_up=st.booleans(),
    mtu=st.sampled_from([1500, 9000]),
    switch_port=st.sampled_from([None, SwitchPort("rep0", "br-data", 1, (), {}, "someone", 3, None)]),
).map(lambda state: replace(state, vfio=state.driver == "vfio-pci"))
WANTED = st.builds(
    Wanted,
    migratable=st.booleans(),
    bind=st.sampled_from([None, "vfio-pci", "mlx5_vfio_pci"]),
    port=st.none() | st.just(WantedPort("br-data", "me", PortSettings(tag=42))),
    mac=st.none() | st.just("52:54:00:00:00:02"),
    mtu=st.none() | st.just(9000),
)


@given(STATES, WANTED)
def test_migratable_is_only_set_on_an_unbound_vf(state: VfState, want: Wanted) -> None:
    told = [step.text.split()[0] for step in steps(state, want)]
    if "set" in told and any(step.text.startswith("set migratable") for step in steps(state, want)):
        texts = [step.text for step in steps(state, want)]
        flag = next(number for number, text in enumerate(texts) if text.startswith("set migratable"))
        unbound = any(text.startswith("unbind") for text in texts[:flag])
        assert state.driver is None or unbound
        assert not any(text.startswith("bind") for text in texts[:flag])
    assert told.count("plug") <= 1


def test_the_port_of_a_claim_has_the_same_settings_on_every_host() -> None:
    claim = Claim(
        PciAddress(0, 1, 0x10, 0), "data", DOMAIN, "g", claim_store.PLUGGED, 0.0, mac="52:54:00:00:00:02"
    )
    other = replace(claim, vf=PciAddress(0, 2, 0x10, 4), id="other")
    first, second = wanted(claim, POOL).port, wanted(other, POOL).port
    assert first is not None
    assert second is not None
    assert first.settings == second.settings
    assert first.owner != second.owner


def test_a_step_is_planned_in_the_imperative_and_reported_in_the_past_tense() -> None:
    step = Step(Verb.CREATE, "bridge br-data", lambda _host: None)
    assert (step.text, step.done) == ("create bridge br-data", "created bridge br-data")


FREE = VfState(
    PciAddress(0, 1, 0x10, 0),
    PF,
    0,
    driver=None,
    vfio=False,
    in_use=False,
    port_index=1,
    hw_addr="00:00:00:00:00:00",
    migratable=False,
    representor="rep0",
    ifindex=7,
    mtu=9000,
)


def test_flag_and_mac_are_set_in_one_request() -> None:
    memory = MemoryHost()
    state = memory.host.observe(memory.vfs[1])
    want = Wanted(migratable=True, bind="mlx5_vfio_pci", mac="52:54:00:00:00:02")
    planned = steps(state, want)
    assert [step.done for step in planned] == [
        f"set migratable of {state.vf}, and its hw_addr to 52:54:00:00:00:02",
        f"bound {state.vf} to mlx5_vfio_pci",
    ]
    del memory.card.trace[:]
    planned[0].run(memory.host)
    assert len(memory.card.trace) == 1
    now = memory.host.observe(state.vf)
    assert (now.migratable, now.hw_addr) == (True, "52:54:00:00:00:02")


def test_the_link_comes_up_while_the_switch_takes_the_port() -> None:
    want = Wanted(migratable=False, port=WantedPort("br-data", "me", PortSettings(tag=42)))
    (plug,) = planned = steps(FREE, want)
    assert plug.meanwhile is not None
    assert done(planned) == ["brought rep0 up", "plugged rep0 into br-data with tag 42"]
    memory = MemoryHost()
    state = memory.host.observe(memory.vfs[1])
    (plug,) = steps(state, replace(want, migratable=bool(state.migratable)))
    plug.run(memory.host)
    now = memory.host.observe(memory.vfs[1])
    assert now.link_up
    assert now.switch_port is not None
