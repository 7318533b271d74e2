"""Whatever a peer sends, a refusal is all that comes of it: the fuzzer's targets, by hypothesis and from good bytes."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from sum_targets import NUM_DEVICES, TARGETS, changed, hear, say, seeds

CHANGES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2**16 - 1), st.integers(0, 255)).map(
        lambda change: bytes([change[0]]) + change[1].to_bytes(2) + bytes([change[2]])
    ),
    max_size=3,
).map(b"".join)
ANY = st.one_of(st.binary(min_size=1, max_size=200), st.builds(lambda first, rest: bytes([first]) + rest,
                                                               st.integers(0, 255), CHANGES))  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals(name):
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ANY)
    def search(data):
        TARGETS[name](data)

    search()


@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzers_seeds(name):
    assert len(seeds(name)) > 5
    for seed in seeds(name):
        TARGETS[name](seed)


def test_without_changes_all_is_well():
    assert changed(b"abc", b"") == b"abc"
    for which in range(NUM_DEVICES + 2):
        assert hear(bytes([which]))
        assert say(bytes([which]))


def test_changes_are_what_they_say():
    good = b"abcdef"
    assert changed(good, bytes([0, 0, 1, 88])) == b"aXcdef"
    assert changed(good, bytes([1, 0, 1, 88])) == b"aXbcdef"
    assert changed(good, bytes([2, 0, 1, 2])) == b"adef"
    assert changed(good, bytes([3, 0, 2, 2])) == b"ababcdef"
