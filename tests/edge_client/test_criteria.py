"""Criteria by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tied_nets import Tied, data, made, small_resnet, traced
from torch import nn

from prunefleet_edge import criteria
from prunefleet_edge.criteria import CRITERIA, check_applies, check_criterion, needs_data, score
from prunefleet_edge.data import Samples
from prunefleet_edge.saliency import (
    activation_saliency,
    fpgm_saliency,
    l1_saliency,
    l2_saliency,
    norm_scale_saliency,
    random_saliency,
    taylor_saliency,
)
from prunefleet_shared.errors import ConfigError

torch.set_num_threads(1)
SAMPLES = Samples(*data())


def test_every_name_gives_its_criterion() -> None:
    model = made(small_resnet)
    found = traced(model)
    expected = {
        "l1": l1_saliency(model, found),
        "l2": l2_saliency(model, found),
        "norm-scale": norm_scale_saliency(model, found),
        "fpgm": fpgm_saliency(model, found),
        "taylor": taylor_saliency(model, found, *data()),
        "activation": activation_saliency(model, found, data()[0]),
        "random": random_saliency(found, 3),
    }
    assert tuple(expected) == CRITERIA
    scores = {name: score(name, model, found, SAMPLES, 3) for name in CRITERIA}
    for name in CRITERIA:
        np.testing.assert_array_equal(scores[name], expected[name])
        assert scores[name].dtype == np.float64
    orders = {tuple(np.argsort(s)) for s in scores.values()}
    assert len(orders) == len(CRITERIA), "no two are the same criterion"


@pytest.mark.parametrize("name", CRITERIA)
def test_those_that_need_data_are_those_that_change_with_it(name: str) -> None:
    model = made(small_resnet)
    found = traced(model)
    other = Samples(SAMPLES.images.flip(2) * 0.5, (SAMPLES.labels + 1) % 3)
    same = np.array_equal(score(name, model, found, SAMPLES, 0), score(name, model, found, other, 0))
    assert needs_data(name) is not same


def test_samples_can_be_taken_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(Tied)
    found, sizes = traced(model), []
    model.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    for name in ("taylor", "activation"):
        score(name, model, found, SAMPLES, 0, batch_size=3)
    assert sizes == [3, 3, 1] * 2


@pytest.mark.parametrize("name", ["taylor", "activation"])
@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf])
def test_data_that_says_nothing_leaves_it_to_the_weights(
    name: str, nothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(Tied)
    found = traced(model)
    useless = np.full(found.layout.num_channels, nothing)
    monkeypatch.setattr(criteria, f"{name}_saliency", lambda *_args: useless)
    np.testing.assert_array_equal(score(name, model, found, SAMPLES, 0), l1_saliency(model, found))


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_finite_whatever_the_weights(name: str) -> None:
    model = made(small_resnet)
    found = traced(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                module.weight[0] = torch.nan
    assert np.isfinite(score(name, model, found, SAMPLES, 0)).all()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    model = made(Tied)
    words = "criterion: expected one of l1, l2, norm-scale, fpgm, taylor, activation, random, got 'taylr'"
    for ask in (
        lambda: check_criterion("taylr"),
        lambda: needs_data("taylr"),
        lambda: score("taylr", model, traced(model), SAMPLES, 0),
        lambda: check_applies("taylr", model, traced(model)),
    ):
        with pytest.raises(ConfigError, match=words):
            ask()


def test_a_criterion_that_does_not_apply_is_found_before_the_work() -> None:
    model = made(Tied)
    with pytest.raises(ConfigError, match="there is none in grouped"):
        check_applies("norm-scale", model, traced(model))
    for name in CRITERIA:
        if name != "norm-scale":
            check_applies(name, model, traced(model))
