"""Wrong tokens cost; right ones do not; nobody's memory is filled."""

import pytest

from prunefleet_coordinator.ca import rate_limit
from prunefleet_coordinator.ca.rate_limit import Allowance, FailureLimit


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(clock):
    return FailureLimit(clock, per_address=Allowance(3, 0.5), for_everyone=Allowance(8, 1))


def fail(limit, address, times):
    for _ in range(times):
        limit.count_failure(address)


def test_a_few_failures_are_free_then_the_address_waits(limit, clock):
    fail(limit, "a", 2)
    assert not limit.is_exhausted("a")
    fail(limit, "a", 1)
    assert limit.is_exhausted("a")
    assert not limit.is_exhausted("b")
    clock.now_s += 1.9
    assert limit.is_exhausted("a")
    clock.now_s += 0.1
    assert not limit.is_exhausted("a")


def test_a_bucket_does_not_fill_beyond_its_size(limit, clock):
    fail(limit, "a", 3)
    clock.now_s += 3600
    fail(limit, "a", 3)
    assert limit.is_exhausted("a")


def test_many_addresses_together_wait_too(limit, clock):
    for number in range(8):
        limit.count_failure(f"address-{number}")
    assert limit.is_exhausted("somebody else")
    clock.now_s += 1
    assert not limit.is_exhausted("somebody else")


def test_a_clock_that_goes_back_gives_nothing_away(limit, clock):
    fail(limit, "a", 3)
    clock.now_s -= 50
    assert limit.is_exhausted("a")


def test_memory_is_bounded(limit, clock, monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_ADDRESSES", 10)
    for number in range(1000):
        clock.now_s += 1
        limit.count_failure(f"address-{number}")
    assert len(limit._buckets) == 10
