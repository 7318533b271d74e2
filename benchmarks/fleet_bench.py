"""One fleet of any size, whose devices vote once: every campaign, decision and slim base that is made of those votes.

Everything goes through the functions that a real device, coordinator and trainer use; only the wire is left out. What
took long to make is kept in the cache, so that no vote is cast and no network trained twice.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fleet_sources import FleetSource
from result_file import cache_folder

from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.totals import combined_total
from prunefleet_edge import work
from prunefleet_edge.device import Vote
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.models import example_input
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.tracing import trace
from prunefleet_shared.campaign import SUM, SUM_DP, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.masks import BoolArray, IntArray
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.noise_terms import NoiseWish
from prunefleet_shared.steering_record import SteeringRecord, make_record
from prunefleet_trainer.campaign_files import BaseFiles, agnostic_masks, describe_base, make_campaign
from prunefleet_trainer.public import retrain_slim_base
from prunefleet_trainer.steering import PublicUse, draw_weights, profiles, public_use, steering_terms

MIN_DEVICES, DELTA_POWER = 8, 6
HONEST_SHARE = 0.8
"""Of a cohort in mode ``sum+dp``: fewer devices in a sum are refused, so noise is calibrated to them."""
NO_KEY = b"no key: nothing is signed in this benchmark"


@dataclass(frozen=True, slots=True)
class Cohorts:
    """How a round's devices are summed.

    Attributes:
        num_devices: In all cohorts together.
        count: Cohorts, all of one size.
        combination: How their sums become one.
        epsilon: Of the campaign's noise; 0 for exact sums.
    """

    num_devices: int
    count: int = 1
    combination: str = "sum"
    epsilon: float = 0.0


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, and what its sum tells the trainer.

    Attributes:
        masks: What is kept of each group.
        record: What the fleet seems to see.
    """

    masks: tuple[BoolArray, ...]
    record: SteeringRecord

    def agreement_permille(self, other: Decided) -> int:
        """Channels that both keep, in thousandths of the mean number that they keep."""
        return agreement_permille(self.masks, other.masks)


def agreement_permille(ours: Sequence[BoolArray], theirs: Sequence[BoolArray]) -> int:
    """Channels kept by both, in thousandths of the mean number kept (Dice's coefficient), rounded down."""
    mine, yours = np.concatenate(list(ours)), np.concatenate(list(theirs))
    return int(2000 * (mine & yours).sum() // (mine.sum() + yours.sum()))


@dataclass(frozen=True, slots=True)
class Slim:
    """A retrained slim base.

    Attributes:
        masks: What is kept of each group.
        weights: Safetensors.
        name: The same masks, public images and seed give the same one.
    """

    masks: tuple[BoolArray, ...]
    weights: bytes
    name: str


class FleetBench:
    """Devices that vote once, for campaigns of every size and noise.

    Args:
        source: Data, base and recipes.
    """

    def __init__(self, source: FleetSource) -> None:
        self.source = source
        self.folder = cache_folder() / f"fleet-{source.name}" / f"seed{source.seed}-{source.images_per_class}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.public = source.public()
        self.files, self.use = self._described()

    def _described(self) -> tuple[BaseFiles, PublicUse]:
        base = self.source.base()
        files = describe_base(self.source.spec, base)
        traced = trace(base, example_input(self.source.spec)).as_in(files.layout)
        use = public_use(base, traced, self.public)
        return replace(files, steering=steering_terms(use)), use

    def options(self, number: int) -> work.WorkOptions:
        """How a device works."""
        state_dir = self.folder / "devices" / f"{number:03d}"
        return work.WorkOptions(self.source.local_recipe, seed=1000 * self.source.seed + number, state_dir=state_dir)

    @functools.cache  # noqa: B019 - a bench lives as long as its script
    def campaign(self, cohorts: Cohorts) -> Campaign:
        """The campaign of such a round."""
        size = cohorts.num_devices // cohorts.count
        is_noisy = cohorts.epsilon > 0
        fewest = round(HONEST_SHARE * size) if is_noisy else min(MIN_DEVICES, size)
        return make_campaign(
            self.files,
            campaign_id=digest(f"{self.source.name} {self.source.seed} {cohorts}".encode())[:32],
            device_class="benchmark",
            levels_permille=self.source.levels_permille,
            cohort=CohortPolicy(size, fewest, 1000, count=cohorts.count, combination=cohorts.combination),
            privacy=PrivacyTerms(SUM_DP if is_noisy else SUM, fewest),
            noise=NoiseWish(round(1000 * cohorts.epsilon), DELTA_POWER) if is_noisy else None,
            decision_key=NO_KEY,
            slim_base_key=NO_KEY,
        )

    @property
    def alone(self) -> Campaign:
        """What does not depend on a fleet: network, levels, limits. Every own choice is made under it."""
        return self.campaign(Cohorts(MIN_DEVICES))

    # --- votes --------------------------------------------------------------------------------------------------------

    def vote(self, number: int) -> Vote:
        """A device's vote; it does not depend on who else votes, nor on noise."""
        path = self.folder / "votes" / f"{number:03d}.npz"
        if not path.exists():
            own = self.source.device(number).own
            vote = work.prepare_vote(self.alone, self.files.weights, own, self.options(number))
            keep_arrays(path, [vote.grades_C, vote.options_LG, vote.lifts_C])
        return Vote(*kept_arrays(path))

    def vectors(self, campaign: Campaign, num_devices: int) -> IntArray:
        """Vectors of the first ``num_devices`` devices, as they would enter the sum before noise: int64 [N, L]."""
        return np.stack([vote_vector(campaign, self.vote(number)) for number in range(num_devices)])

    # --- decisions ----------------------------------------------------------------------------------------------------

    def decide(self, campaign: Campaign, sums: Sequence[Total], level: int) -> Decided:
        """What coordinator and trainer make of the cohorts' sums.

        Raises:
            LocalProtocolError: A sum that no honest cohort could have made: the coordinator would refuse it.
        """
        total = combined_total(campaign, SessionKind.VOTE, sums)
        decision = decide(campaign, total, level, sums if len(sums) > 1 else ())
        record = make_record(campaign, decision, total, self.use.kinds, self.profiles(campaign))
        return Decided(tuple(masks_by_order(decision.prior, decision.widths)), record)

    def profiles(self, campaign: Campaign) -> IntArray:
        """The lift mask of a device with images of one kind only, for every public kind."""
        return profiles(campaign, steering_terms(self.use), self.use)

    def slim(self, decided: Decided) -> Slim:
        """The decided slim base, retrained on public images drawn as the sum says."""
        return self._retrained(decided.masks, decided.record.mixture.weights_ppm)

    def agnostic(self, level: int) -> Slim:
        """The base pruned by L1 at the level's budget, retrained on all public images alike."""
        campaign = self.alone
        masks = agnostic_masks(self.files, campaign.cost_table, campaign.levels[level].budget, campaign.limits)
        return self._retrained(tuple(masks), None)

    def _retrained(self, masks: tuple[BoolArray, ...], weights_ppm: Sequence[int] | None) -> Slim:
        kept = [[int(flag) for flag in mask] for mask in masks]
        drawn = "alike" if weights_ppm is None else digest(canonical_bytes(list(weights_ppm)))[:12]
        name = f"{digest(canonical_bytes(kept))[:16]}-{drawn}"
        path = self.folder / "slim" / f"{name}.safetensors"
        if not path.exists():
            draw = None if weights_ppm is None else draw_weights(weights_ppm, self.use.kind_N)
            weights = self._retrain(masks, draw)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, weights, 0o600)
        return Slim(masks, path.read_bytes(), name)

    def _retrain(self, masks: tuple[BoolArray, ...], draw: torch.Tensor | None) -> bytes:
        recipe, seed, layout = self.source.public_recipe, self.source.seed, self.files.layout
        base = self.files.weights
        return retrain_slim_base(self.files.model, base, masks, self.public, recipe, seed, draw, layout=layout)


def total_of(vectors_NL: IntArray) -> Total:
    """The sum of some devices' vectors."""
    return Total(tuple(int(lane) for lane in vectors_NL.sum(axis=0)), len(vectors_NL))


def keep_arrays(path: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write arrays, in order, whole or not at all."""
    file = io.BytesIO()
    np.savez(file, *arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue(), 0o600)


def kept_arrays(path: Path) -> list[np.ndarray]:
    """What :func:`keep_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{index}"] for index in range(len(file.files))]
