"""Sums of votes that may be released one after the other: no two of them tell of a few devices."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_edge.release_policy import why_too_alike
from prunefleet_shared.errors import RejectReason


def released_of(offered: list[frozenset[str]], min_devices: int) -> list[frozenset[str]]:
    """The cohorts that a device would help to release, offered one after the other."""
    released: list[frozenset[str]] = []
    for devices in offered:
        if why_too_alike(devices, released, min_devices) is None:
            released.append(devices)
    return released


def apart(one: frozenset[str], other: frozenset[str]) -> int:
    """Devices that are left when one sum is taken from the other."""
    return len(one - other) + len(other - one)


COHORTS = st.lists(st.frozensets(st.sampled_from("abcdefghijkl"), min_size=3), max_size=12)


@given(COHORTS, st.integers(3, 8))
@settings(max_examples=200, deadline=None)
def test_no_difference_of_two_released_sums_is_over_a_few_devices(offered: list[frozenset[str]], least: int) -> None:
    for one, other in itertools.combinations(released_of(offered, least), 2):
        assert apart(one, other) not in range(1, least)


def test_every_pair_of_cohorts_of_six_devices_is_judged_by_what_it_tells() -> None:
    everybody = [frozenset(c) for size in range(3, 7) for c in itertools.combinations("abcdef", size)]
    judged = {True: 0, False: 0}
    for before, devices in itertools.product(everybody, repeat=2):
        is_allowed = why_too_alike(devices, [before], 3) is None
        assert is_allowed == (before == devices or apart(before, devices) >= 3)
        judged[is_allowed] += 1
    assert min(judged.values()) > 100, "both happen"


def test_one_sum_of_many_that_is_too_alike_is_enough_and_the_first_is_free() -> None:
    first, far, near = frozenset("abcdefgh"), frozenset("ijklmnop"), frozenset("abcdefghi")
    assert why_too_alike(near, [], 8) is None
    for released in ([first, far], [far, first]):
        rejection = why_too_alike(near, iter(released), 8)
        assert rejection is not None
        assert rejection.reason is RejectReason.TOO_ALIKE
        assert rejection.got == "1 others"
        assert "or 8 others" in rejection.expected
    assert why_too_alike(first, [first, far], 8) is None, "the very same devices may change their minds"


def test_who_the_devices_are_is_not_said() -> None:
    """The words go to the coordinator's log in the end, and there is no need to tell who compares what."""
    rejection = why_too_alike(frozenset({"kitchen", "hall", "door"}), [frozenset({"kitchen", "hall"})], 3)
    assert not any(name in str(rejection) for name in ("kitchen", "hall", "door"))
