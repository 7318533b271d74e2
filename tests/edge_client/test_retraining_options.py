"""Strategies by name, and the ranges of their numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prunefleet_edge.retraining_options import (
    FLEET_STRATEGIES,
    PLAIN,
    STRATEGIES,
    RetrainingOptions,
    check_for_slim,
    check_strategy_name,
)
from prunefleet_shared.errors import ConfigError


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_an_option(name: str) -> None:
    check_strategy_name(name)
    assert RetrainingOptions(name).strategy == name


def test_plain_is_what_it_always_was() -> None:
    assert PLAIN.strategy == "all"
    assert set(STRATEGIES) - set(FLEET_STRATEGIES) == {"regrow"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "survivor"}, "none, survivors, regrow, all, anchored, distilled, got 'survivor'"),
        ({"anchor_weight": -1.0}, "retraining.anchor_weight: expected at least 0, got -1.0"),
        ({"anchor_weight": math.nan}, "anchor_weight"),
        ({"temperature": 0.0}, "retraining.temperature: expected above 0"),
        ({"distilled_ratio": 1.5}, "retraining.distilled_ratio"),
        ({"regrow_ratio": 0.0}, "retraining.regrow_ratio"),
        ({"regrow_ratio": 1.1}, "retraining.regrow_ratio"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RetrainingOptions(**values)


def test_regrow_is_refused_for_slim_networks_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"has none: its channels are gone; expected one of none, survivors, all"):
        check_for_slim(RetrainingOptions("regrow"))
    for name in FLEET_STRATEGIES:
        check_for_slim(RetrainingOptions(name))
