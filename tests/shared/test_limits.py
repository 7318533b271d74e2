"""Limits and constraints by hand: what widths may be, and the words when they may not."""

import json

import pytest

from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.limits import (
    Constraint,
    JointCost,
    Limits,
    allowed_widths,
    narrowest_widths,
    why_limits_broken,
    why_unreachable,
    width_units,
)

LAYOUT = Layout((ChannelGroup("a", 16), ChannelGroup("b", 12), ChannelGroup("c", 16)))
MACS = CostTable("macs", (CostTerm(2, (0,)), CostTerm(1, (1, 2))))
PARAMETERS = CostTable("parameters", (CostTerm(3, (1,)),))


def test_widths_are_multiples_from_the_floor_on_or_dense():
    assert allowed_widths(LAYOUT, Limits(min_keep=5, round_to=4)) == [(8, 12, 16), (8, 12), (8, 12, 16)]
    assert narrowest_widths(LAYOUT) == (2, 2, 2)


def test_what_is_tied_to_a_skipped_group_stays_whole_too():
    limits = Limits(round_to=8, skipped=frozenset({"c"}), tied=(("c", "a"),))
    assert width_units(LAYOUT, limits) == ((0, 2), (1,))
    assert allowed_widths(LAYOUT, limits) == [(16,), (8, 12), (16,)]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(skipped=frozenset({"d"})), "skipped groups: there is no group d; expected some of a, b, c"),
        (Limits(tied=(("a", "d"),)), "tied groups: there is no group d; expected some of a, b, c"),
        (Limits(tied=(("a", "c"), ("c",))), "tied groups: each may be tied once, got a, c, c"),
        (Limits(tied=(("a", "b"),)), r"tied groups: a, b have \[16, 12\] channels; only groups of the same size"),
    ],
)
def test_limits_that_do_not_fit_the_layout_say_why(limits, words):
    with pytest.raises(ConfigError, match=words):
        allowed_widths(LAYOUT, limits)


def test_widths_that_break_limits_are_told():
    limits = Limits(round_to=4, tied=(("a", "c"),))
    assert why_limits_broken(LAYOUT, limits, (8, 12, 8)) is None
    assert why_limits_broken(LAYOUT, limits, (8, 6, 8)) == "b has 6 channels; the limits allow 4, 8, 12"
    assert why_limits_broken(LAYOUT, Limits(), (1, 12, 8)) == "a has 1 channels; the limits allow 2, 3, …, 16"
    assert why_limits_broken(LAYOUT, limits, (8, 12, 12)) == "a, c are tied and have widths [8, 12]"


def test_a_joint_cost_is_the_dearest_of_all_stretched_to_the_first_budget():
    joint = JointCost((Constraint(MACS, 100), Constraint(PARAMETERS, 30)))
    assert joint.unit == "macs"
    assert joint.cost((10, 4, 5)) == max(20 + 20, 40)
    assert joint.cost((10, 11, 5)) == 110, "33 of 30 parameters are 110 of 100"


def test_what_cannot_be_met_is_told_with_what_to_do():
    constraints = (Constraint(MACS, 100), Constraint(PARAMETERS, 5))
    assert why_unreachable(LAYOUT, Limits(), constraints[:1]) is None
    why = why_unreachable(LAYOUT, Limits(), constraints)
    assert why is not None
    assert why.startswith("a budget of 5 parameters cannot be met: the smallest widths cost 6; allow more, or relax")


def test_limits_survive_a_signed_document_and_bad_ones_are_refused_there():
    limits = Limits(4, 8, frozenset({"c", "a"}), (("a", "b"),))
    payload = canonical_bytes(limits)
    assert json.loads(payload)["skipped"] == ["a", "c"]
    assert read_document(payload, Limits) == limits
    with pytest.raises(RemoteProtocolError, match=r"MALFORMED.*round_to >= 1"):
        read_document(payload.replace(b'"round_to":8', b'"round_to":0'), Limits)
