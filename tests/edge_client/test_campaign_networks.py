"""Several networks in one slim base: put together, taken apart, and the one that fits a device's images taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import nn
from work_parts import BASE, CAMPAIGN, DECISION, OPTIONS, SLIM_BASE, samples

from prunefleet_edge import work
from prunefleet_edge.campaign_networks import load_networks, nearest
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import losses
from prunefleet_edge.gate import Verdict
from prunefleet_edge.models.weights import join_networks, save_weights, split_networks
from prunefleet_edge.work import personalise
from prunefleet_shared.errors import InputError
from prunefleet_shared.steering_terms import SteeringTerms

NUM_CHANNELS = CAMPAIGN.layout.num_channels
CLUSTERED = replace(CAMPAIGN, steering=SteeringTerms((0,) * NUM_CHANNELS, (1,) * NUM_CHANNELS, 2))


def leaning(label: int, by: float = 2.0) -> bytes:
    """The slim base with a leaning towards one class."""
    network = load_networks(CAMPAIGN, DECISION, SLIM_BASE)[0]
    with torch.no_grad():
        network.net.fc.bias[label] += by
    return save_weights(network)


def only(label: int, num: int = 24) -> Samples:
    mixed = samples(4 * num)
    return mixed[mixed.labels == label]


THREE = (SLIM_BASE, leaning(1), leaning(3))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_networks_come_apart_as_they_were_put_together() -> None:
    joined = join_networks(THREE)
    assert split_networks(joined, "slim base") == list(THREE)
    assert join_networks([SLIM_BASE]) == SLIM_BASE
    assert split_networks(SLIM_BASE, "slim base") == [SLIM_BASE]
    assert len(joined) < sum(len(weights) for weights in THREE) + 4096


@pytest.mark.parametrize("names", [["network-1/a"], ["a", "network-2/a"], ["a", "network-01/a"], ["a", "x/a"], []])
def test_networks_that_are_not_numbered_from_0_are_refused(names: list[str]) -> None:
    weights = save_tensors({name: torch.zeros(1) for name in names})
    with pytest.raises(InputError, match="slim base: expected networks numbered from 0"):
        split_networks(weights, "slim base")


def test_a_campaign_without_clusters_has_one_network() -> None:
    assert len(load_networks(CLUSTERED, DECISION, join_networks(THREE))) == 3
    with pytest.raises(InputError, match="expected at most 1 networks, got 3"):
        load_networks(CAMPAIGN, DECISION, join_networks(THREE))
    with pytest.raises(InputError, match="expected at most 3 networks, got 4"):
        load_networks(CLUSTERED, DECISION, join_networks([*THREE, SLIM_BASE]))


def test_a_network_of_another_shape_is_refused_wherever_it_stands() -> None:
    with pytest.raises(InputError, match="slim base: not the weights of Normalised"):
        load_networks(CLUSTERED, DECISION, join_networks([SLIM_BASE, BASE]))


@pytest.mark.parametrize(("label", "index"), [(1, 1), (3, 2)])
def test_a_device_takes_the_network_that_errs_least_on_its_images(label: int, index: int) -> None:
    networks = load_networks(CLUSTERED, DECISION, join_networks(THREE))
    found = nearest(networks, only(label))
    assert found == index
    assert found == int(torch.tensor([losses(network, only(label)).mean() for network in networks]).argmin())


def test_of_equals_the_first_is_taken() -> None:
    networks = load_networks(CLUSTERED, DECISION, join_networks([SLIM_BASE] * 3))
    assert nearest(networks, samples()) == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_network_is_taken_only_if_all_are(place: int) -> None:
    networks = load_networks(CLUSTERED, DECISION, join_networks([leaning(1)] * 3))
    with torch.no_grad():
        networks[place].net.fc.bias.fill_(float("nan"))
    assert nearest(networks, only(1)) == (1 if place == 0 else 0)


@pytest.mark.parametrize("num", [24, 120], ids=["cross-fitted", "split"])
@pytest.mark.parametrize("accepted", [True, False])
def test_the_outcome_says_which_network_was_tried(num: int, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "compare", lambda *_losses: Verdict(accepted, 0.0, 0.0))
    own = samples(num)
    better = Samples(own.images, torch.where(own.labels == 3, 3, 1))
    done = personalise(CLUSTERED, DECISION, BASE, join_networks(THREE), better, OPTIONS)
    assert done.outcome.network == 1
    assert done.outcome.accepted is accepted


def test_what_is_kept_comes_of_the_network_that_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "compare", lambda *_losses: Verdict(True, 0.0, 0.0))
    own = Samples(samples().images, torch.where(samples().labels == 3, 3, 1))
    joined, alone = (
        personalise(campaign, DECISION, BASE, weights, own, OPTIONS).kept
        for campaign, weights in ((CLUSTERED, join_networks(THREE)), (CAMPAIGN, THREE[1]))
    )
    of_all = personalise(CAMPAIGN, DECISION, BASE, THREE[0], own, OPTIONS).kept
    assert same(joined, alone)
    assert not same(joined, of_all)


def test_without_clusters_nothing_is_said_of_networks() -> None:
    assert personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(), OPTIONS).outcome.network == 0
