"""Drop-outs: whoever falls silent at whatever stage, the sum of the others is exact, or there is none."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sum_world import Session, drawn_vectors, name_of

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.secure_sum.context import threshold
from prunefleet_shared.secure_sum.coordinator_end import Stage, SumFailedError
from prunefleet_shared.secure_sum.device_end import Stage as DeviceStage

N, NEEDED = 9, 7
MIXED = [3, 16, 17, 40, 1, 7, 7, 33, 16]
WIDTHS = {"narrow": [7] * 21, "sixteen": [16] * 5, "wide": [17, 24, 33, 40], "mixed": MIXED}
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def summed(num_devices, widths, drops, *, low=0, high=8):
    session = Session(drawn_vectors(num_devices, widths, low=low, high=high), widths, fewest=3)
    return session.run(drops)


@pytest.mark.parametrize("stage", range(1, 6))
@pytest.mark.parametrize("num_dropped", range(N - NEEDED + 1))
@pytest.mark.parametrize("kind", WIDTHS)
def test_as_many_as_may_drop_out_at_each_stage(stage, num_dropped, kind):
    gone = set(range(num_dropped))
    session = summed(N, WIDTHS[kind], {stage: gone})
    survivors = set(range(N)) - (gone if stage <= 3 else set())
    assert session.total().tolist() == session.expected(survivors).tolist()
    assert session.coordinator.contributors == {name_of(i) for i in survivors}
    spoke = set(range(N)) - gone
    assert {session.devices[i].stage for i in spoke} == {DeviceStage.OVER}
    assert all(session.devices[i].survivor_names == session.coordinator.contributors for i in spoke)


@pytest.mark.parametrize("stage", range(2, 6))
def test_with_one_fewer_there_is_no_sum(stage):
    session = Session(drawn_vectors(N, MIXED), MIXED)
    session.run({}, until=stage - 1)
    with pytest.raises(SumFailedError, match=r"6 devices|0 devices") as failure:
        session.stage(stage, range(N - NEEDED + 1))
    assert failure.value.blamed == frozenset()
    assert session.coordinator.stage == stage
    assert_no_output(session)


def test_with_too_few_adverts_there_is_no_roster():
    session = Session(drawn_vectors(N, MIXED), MIXED, fewest=8)
    with pytest.raises(SumFailedError, match="7 devices in stage adverts, where 8"):
        session.stage(1, {0, 1})
    assert_no_output(session)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_fewest_of_the_campaign_hold_where_the_threshold_would_allow_less(stage):
    session = Session(drawn_vectors(N, MIXED), MIXED, fewest=9)
    session.run({}, until=stage - 1)
    with pytest.raises(SumFailedError, match="8 devices"):
        session.stage(stage, {4})
    assert_no_output(session)


def assert_no_output(session):
    with pytest.raises(LocalProtocolError):
        session.coordinator.close()


@st.composite
def drop_outs(draw):
    num_devices = draw(st.integers(3, 12))
    stage_of = draw(st.lists(st.sampled_from([0, 0, 0, 2, 3, 4, 5]), min_size=num_devices, max_size=num_devices))
    drops = {stage: [i for i, at in enumerate(stage_of) if at == stage] for stage in range(2, 6)}
    return num_devices, drops


@SLOW
@given(drop_outs(), st.lists(st.integers(1, 48), min_size=1, max_size=8), st.integers(0, 2**20))
def test_any_subset_at_any_stage_exact_or_nothing(drawn, widths, span):
    num_devices, drops = drawn
    alive = num_devices - np.cumsum([len(drops[stage]) for stage in range(2, 6)])
    if alive[-1] < threshold(num_devices):
        with pytest.raises(SumFailedError):
            summed(num_devices, widths, drops)
        return
    session = summed(num_devices, widths, drops, low=-span, high=span + 1)
    survivors = set(range(num_devices)) - {*drops[2], *drops[3]}
    assert session.total().tolist() == session.expected(survivors).tolist()


def test_noise_below_zero_comes_out_modulo_the_lane():
    """Lanes are residues: who adds noise reads them as signed."""
    vectors = np.array([[-5, -1, 2**39]] * 4, dtype=np.int64)
    session = Session(vectors, [7, 17, 40]).run({3: {1}})
    assert session.total().tolist() == [2**7 - 15, 2**17 - 3, 2**39]


def test_a_message_said_twice_counts_once():
    session = Session(drawn_vectors(4, MIXED), MIXED)
    for stage in range(1, 6):
        session.send(stage)
        for i, message in session.up[stage].items():
            session.coordinator.receive(name_of(i), message)
        session.answer(stage)
        for i in session.alive:
            assert session.ask(i, session.up[stage][i]) == session.down[stage][i]
    assert session.total().tolist() == session.expected(range(4)).tolist()


def test_who_was_silent_is_awaited_and_hears_late_afterwards():
    session = Session(drawn_vectors(N, MIXED), MIXED).run(until=2)
    session.alive -= {3}
    session.send(3)
    assert session.coordinator.awaited == {name_of(3)}
    session.coordinator.end_stage()
    assert session.coordinator.stage is Stage.CONFIRMATIONS
    with pytest.raises(Exception, match="LATE"):
        session.coordinator.receive(name_of(3), session._next[3])
