"""Steering from end to end on a small network: devices vote, the sum says what they see, public images follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prunefleet_coordinator.aggregation import decide
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.models import parse_spec
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.work import WorkOptions, prepare_vote
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import InputError, LayoutError, LocalProtocolError
from prunefleet_shared.messages import Total
from prunefleet_shared.mixture import PPM
from prunefleet_shared.steering_record import record_digest, why_record_wrong
from prunefleet_shared.steering_terms import MAX_USE, SteeringTerms, why_steering_impossible
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import describe_base, make_campaign
from prunefleet_trainer.public import train_base
from prunefleet_trainer.steering import Steering, draw_weights, public_use, steer, steering_terms

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/6")
SEEN = (1, 4)
NUM_DEVICES = 4


def samples(classes: tuple[int, ...], per_class: int, seed: int) -> Samples:
    """Images with a bar where their class says, in some noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat_interleave(per_class)
    images = 0.3 * torch.rand(len(labels), 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label, :] += 0.5
        image[0, :, label] += 0.2
    return Samples(images, labels)


PUBLIC = samples(tuple(range(6)), 12, seed=0)
BASE = train_base(SPEC, PUBLIC, Recipe(epochs=6, learning_rate=0.05, batch_size=12), seed=1)
FILES = describe_base(SPEC, BASE, PUBLIC)


def campaign_of(files: object = FILES) -> Campaign:
    return make_campaign(
        files,  # type: ignore[arg-type]
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(500,),
        cohort=CohortPolicy(size=NUM_DEVICES, quorum=2, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=PrivacyTerms(PLAIN, 1),
    )


CAMPAIGN = campaign_of()


def fleet_total(classes: tuple[int, ...] = SEEN) -> Total:
    options = WorkOptions(Recipe(epochs=1, learning_rate=0.01), seed=1)
    own = [samples(classes, 6, seed=10 + device) for device in range(NUM_DEVICES)]
    votes = [vote_vector(CAMPAIGN, prepare_vote(CAMPAIGN, FILES.weights, data, options)) for data in own]
    return Total(tuple(int(lane) for lane in np.sum(votes, axis=0)), NUM_DEVICES)


@pytest.fixture(scope="module")
def total() -> Total:
    return fleet_total()


@pytest.fixture(scope="module")
def decision(total: Total) -> Decision:
    return decide(CAMPAIGN, total, 0)


@pytest.fixture(scope="module")
def steering(total: Total, decision: Decision) -> Steering:
    found = steer(CAMPAIGN, decision, total, FILES.weights, PUBLIC)
    assert found is not None
    return found


def test_the_sum_tells_what_the_fleet_sees(steering: Steering) -> None:
    mixture = steering.record.mixture
    assert mixture.is_confident
    assert sum(mixture.weights_ppm[label] for label in SEEN) > 0.6 * PPM


def test_public_images_are_drawn_like_what_the_fleet_sees_and_no_kind_is_left_out(steering: Steering) -> None:
    shares = [float(steering.draws[0][PUBLIC.labels == label].sum()) for label in range(6)]
    weights = [weight / PPM for weight in steering.record.mixture.weights_ppm]
    assert shares == pytest.approx([(3 * weight + 1 / 6) / 4 for weight in weights])


def test_the_record_follows_from_the_sum_and_from_no_other(
    steering: Steering, total: Total, decision: Decision
) -> None:
    record = steering.record
    assert why_record_wrong(CAMPAIGN, decision, total, record) is None
    forged = replace(record, mixture=replace(record.mixture, explained_ppm=1))
    assert "not the one that follows" in (why_record_wrong(CAMPAIGN, decision, total, forged) or "")
    assert record_digest(forged) != record_digest(record)
    other = Total(total.lanes[::-1], total.num_devices)
    assert "needs the sum" in (why_record_wrong(CAMPAIGN, decision, other, record) or "")
    ragged = replace(record, profiles=((1, 2), (3,)))
    assert why_record_wrong(CAMPAIGN, decision, total, ragged) is not None


def test_another_sum_than_the_decisions_is_not_steered_by(total: Total, decision: Decision) -> None:
    other = Total(total.lanes[::-1], total.num_devices)
    assert digest(canonical_bytes(other.lanes)) != decision.tally_digest
    with pytest.raises(LocalProtocolError, match="needs the sum"):
        steer(CAMPAIGN, decision, other, FILES.weights, PUBLIC)


def test_a_campaign_that_does_not_steer_asks_for_no_lift_mask() -> None:
    silent = campaign_of(describe_base(SPEC, BASE))
    assert silent.steering is None
    assert silent.vote_lanes.num_lanes == CAMPAIGN.vote_lanes.num_lanes - CAMPAIGN.layout.num_channels
    own, options = samples(SEEN, 6, seed=10), WorkOptions(Recipe(epochs=1, learning_rate=0.01), seed=1)
    assert prepare_vote(silent, FILES.weights, own, options).lifts_C is None


def test_another_fleet_is_found_to_see_other_classes() -> None:
    """The same network, the same terms, the same way to ask: what the sum says must come from the images."""
    total = fleet_total((0, 3))
    found = steer(CAMPAIGN, decide(CAMPAIGN, total, 0), total, FILES.weights, PUBLIC)
    assert found is not None
    weights = found.record.mixture.weights_ppm
    assert weights[0] + weights[3] > 0.6 * PPM > 2 * (weights[1] + weights[4])


def test_use_is_linear_in_the_images() -> None:
    use = public_use(BASE, _trace(), PUBLIC)
    whole = public_use(BASE, _trace(), Samples(PUBLIC.images, PUBLIC.labels % 2))
    assert np.allclose(whole.use_KC[0], use.use_KC[[0, 2, 4]].mean(axis=0))


def test_terms_are_integers_with_a_spread_of_at_least_one() -> None:
    use = public_use(BASE, _trace(), PUBLIC)
    terms = steering_terms(replace(use, use_KC=np.zeros_like(use.use_KC)))
    assert set(terms.usual_uses) == {0}
    assert set(terms.use_spreads) == {1}
    assert why_steering_impossible(CAMPAIGN.layout, terms) is None


def test_one_class_is_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        public_use(BASE, _trace(), PUBLIC[PUBLIC.labels == 3])


def test_shares_are_split_among_the_images_of_a_kind() -> None:
    weights_N = draw_weights((250_000, 750_000, 0), torch.tensor([0, 1, 1, 1, 2]))
    assert weights_N.tolist() == pytest.approx([3 / 16 + 1 / 12, *[3 / 16 + 1 / 36] * 3, 1 / 12])


@pytest.mark.parametrize(
    "terms",
    [
        SteeringTerms((1,), (1,)),
        SteeringTerms((1,) * FILES.layout.num_channels, (0,) * FILES.layout.num_channels),
        SteeringTerms((-1,) * FILES.layout.num_channels, (1,) * FILES.layout.num_channels),
        SteeringTerms((MAX_USE + 1,) * FILES.layout.num_channels, (1,) * FILES.layout.num_channels),
    ],
    ids=["too few", "no spread", "negative", "huge"],
)
def test_terms_that_no_lift_mask_can_be_made_by_are_refused(terms: SteeringTerms) -> None:
    own, options = samples(SEEN, 6, seed=10), WorkOptions(Recipe(epochs=1, learning_rate=0.01), seed=1)
    with pytest.raises(LayoutError):
        prepare_vote(replace(CAMPAIGN, steering=terms), FILES.weights, own, options)


def _trace():  # type: ignore[no-untyped-def]
    from prunefleet_edge.models import example_input
    from prunefleet_edge.tracing import trace

    return trace(BASE, example_input(SPEC)).as_in(FILES.layout)
