"""What the operator prepares before a campaign: the base, its layout, its cost table, and an order for want of a fleet.

The coordinator has no torch; everything it needs from the network is in the plain data made here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.latency_terms import latency_terms
from prunefleet_edge.local_subject import MEMORY_BATCH
from prunefleet_edge.memory import memory_table
from prunefleet_edge.models import ModelSpec, example_input
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.profile import DeviceProfile, latency_table
from prunefleet_edge.ranking import keep_masks, rank_widths
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import cost_table
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import Campaign, CohortPolicy, Level, PrivacyTerms
from prunefleet_shared.decision_rules import DEFAULT_RULES, DecisionRules, why_rules_impossible
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.gate_terms import DEFAULT_GATE, GateTerms
from prunefleet_shared.layout import MAX_LEVELS, CostTable, Layout, WidthCost, option_for_width
from prunefleet_shared.limits import NO_LIMITS, Limits, why_unreachable
from prunefleet_shared.masks import BoolArray, FloatArray, descending_order
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.steering_terms import SteeringTerms
from prunefleet_trainer.decision_options import LATENCY, TRAINING_MEMORY, BudgetWish
from prunefleet_trainer.steering import public_use, steering_terms


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base network as plain data.

    Attributes:
        model: Its specification, such as ``resnet8/1x12x12/10``.
        weights: The bytes of its safetensors file.
        layout: Its channel groups.
        macs: Cost of any widths in multiply-accumulates per sample.
        parameters: The same in parameters.
        l1_scores_C: Mean |w| per channel: the public order, and what the agnostic baseline prunes by.
        steering: How public data use the base; None where there are none, or nothing is to be steered.
        further: Cost tables by other units' names, where they were asked for: ``training-memory``, ``latency``.
    """

    model: str
    weights: bytes
    layout: Layout
    macs: CostTable
    parameters: CostTable
    l1_scores_C: FloatArray
    steering: SteeringTerms | None = None
    further: Mapping[str, CostTable] = field(default_factory=dict)

    @property
    def public_order(self) -> tuple[tuple[int, ...], ...]:
        """For every group, its channels by falling L1."""
        parts = (descending_order(self.l1_scores_C[part]) for part in self.layout.slices())
        return tuple(tuple(int(channel) for channel in order) for order in parts)

    def table(self, unit: str) -> CostTable:
        """The cost table of ``unit``, ``"macs"`` or ``"parameters"``, or one of ``further``.

        Raises:
            ConfigError: No such unit.
        """
        tables = {"macs": self.macs, "parameters": self.parameters, **self.further}
        if unit not in tables:
            msg = f"budget unit {unit!r} is unknown; expected one of {', '.join(tables)}"
            raise ConfigError(msg)
        return tables[unit]


def describe_base(
    spec: ModelSpec,
    model: nn.Module,
    public: Samples | None = None,
    *,
    num_clusters: int = 1,
    with_training_memory: bool = False,
) -> BaseFiles:
    """Trace ``model``, try out what can be pruned safely, and write down all that others need to know of it.

    Args:
        spec: The network.
        model: The same with weights.
        public: What to steer by; None for a campaign that does not.
        num_clusters: Parts of the fleet that get a network of their own, where it is steered.
        with_training_memory: Rehearse what training takes (:data:`~prunefleet_edge.local_subject.MEMORY_BATCH` images
            at a time), for a cost table.

    Raises:
        InputError: The public data cannot be steered by.
        LayoutError: It cannot be traced, or no channel group of it is safe to prune.
    """
    example = example_input(spec)
    traced = onboard(model, example)
    macs, parameters = (cost_table(model, example, traced, unit) for unit in ("macs", "parameters"))
    scores = l1_saliency(model, traced)
    steering = None if public is None else steering_terms(public_use(model, traced, public), num_clusters)
    further = {TRAINING_MEMORY: memory_table(model, example, traced, MEMORY_BATCH)} if with_training_memory else {}
    return BaseFiles(str(spec), save_weights(model), traced.layout, macs, parameters, scores, steering, further)


def with_latency(files: BaseFiles, profile: DeviceProfile, limits: Limits = NO_LIMITS) -> BaseFiles:
    """``files`` with a cost table of latency, fitted to what was measured on a device.

    Raises:
        InputError: The profile is another network's (the user's to mend).
    """
    fitted = latency_terms(latency_table(profile, files.layout, files.model), limits)
    return replace(files, further={**files.further, LATENCY: fitted})


def make_campaign(  # noqa: PLR0913 - the terms of a campaign, by name
    files: BaseFiles,
    *,
    campaign_id: str,
    device_class: str,
    levels_permille: Sequence[int],
    cohort: CohortPolicy,
    decision_key: bytes,
    slim_base_key: bytes,
    privacy: PrivacyTerms,
    noise: NoiseWish | None = None,
    budget_unit: str = "macs",
    further_budgets: Sequence[BudgetWish] = (),
    rules: DecisionRules = DEFAULT_RULES,
    limits: Limits = NO_LIMITS,
    acceptance: Acceptance | None = None,
    gate: GateTerms = DEFAULT_GATE,
) -> Campaign:
    """The campaign document, to be signed.

    Args:
        files: The base.
        campaign_id: 32 hex digits.
        device_class: Whom it is for.
        levels_permille: What may remain of the dense cost at each level, in thousandths, falling; 1 to 8 levels.
        cohort: Whom a session waits for.
        decision_key: The coordinator's public key, DER.
        slim_base_key: The trainer's.
        privacy: What the coordinator may learn; its noise is filled in here.
        noise: In mode ``sum+dp``, how much.
        budget_unit: What levels are fractions of: ``"macs"``, ``"parameters"`` or one of ``files.further``.
        further_budgets: What must hold as well.
        rules: How a decision follows from the votes.
        limits: What every choice of widths must leave.
        acceptance: By what its decisions are judged; None: nothing is.
        gate: What devices set the fleet's network against.

    Raises:
        ConfigError: Levels, units, rules or limits are out of range, or cannot be met (the operator's to mend).
    """
    campaign = Campaign(
        campaign_id=campaign_id,
        device_class=device_class,
        privacy=_with_noise(privacy, noise, files, len(levels_permille), acceptance),
        model=files.model,
        base_digest=digest(files.weights),
        layout=files.layout,
        cost_table=files.table(budget_unit),
        levels=_levels(levels_permille, files, budget_unit, further_budgets),
        public_order=files.public_order,
        cohort=cohort,
        decision_key=decision_key.hex(),
        slim_base_key=slim_base_key.hex(),
        steering=files.steering,
        rules=rules,
        further_tables=tuple(files.table(wish.unit) for wish in further_budgets),
        limits=limits,
        acceptance=acceptance,
        gate=gate,
    )
    _check_reachable(campaign)
    return replace(campaign, public_options=_public_options(campaign, files.l1_scores_C))


def _levels(
    levels_permille: Sequence[int], files: BaseFiles, budget_unit: str, further: Sequence[BudgetWish]
) -> tuple[Level, ...]:
    falling = all(a > b for a, b in itertools.pairwise(levels_permille))
    if not 1 <= len(levels_permille) <= MAX_LEVELS or not falling or not all(0 < p < 1000 for p in levels_permille):
        msg = (
            f"levels: expected 1 to {MAX_LEVELS} falling fractions between 0 and 1, got {list(levels_permille)} / 1000"
        )
        raise ConfigError(msg)
    return tuple(_level(permille, files, budget_unit, further) for permille in levels_permille)


def _level(permille: int, files: BaseFiles, budget_unit: str, further: Sequence[BudgetWish]) -> Level:
    def budget(wish: BudgetWish) -> int:
        dense = files.table(wish.unit).cost(files.layout.dense_widths)
        return dense * permille // 1000 if wish.amount is None else wish.amount

    return Level(permille, budget(BudgetWish(budget_unit)), tuple(budget(wish) for wish in further))


def _check_reachable(campaign: Campaign) -> None:
    why = why_unreachable(campaign.layout, campaign.limits, campaign.constraints(-1))
    if why:
        msg = f"levels: at {campaign.levels[-1].permille} / 1000, {why}"
        raise ConfigError(msg)
    why = why_rules_impossible(campaign.rules, is_noisy=campaign.privacy.noise is not None)
    if why:
        raise ConfigError(why)


def _public_options(campaign: Campaign, l1_scores_C: FloatArray) -> tuple[tuple[int, ...], ...]:
    """For every level and group, the width option that the agnostic baseline would vote for."""
    dense, options = campaign.layout.dense_widths, []
    for number, level in enumerate(campaign.levels):
        cost = campaign.joint_cost(number)
        widths = rank_widths(campaign.layout, cost, l1_scores_C, level.budget, campaign.limits)
        options.append(tuple(option_for_width(w, n) for w, n in zip(widths, dense, strict=True)))
    return tuple(options)


def _with_noise(
    privacy: PrivacyTerms, wish: NoiseWish | None, files: BaseFiles, num_levels: int, acceptance: Acceptance | None
) -> PrivacyTerms:
    if wish is None:
        return privacy
    return replace(privacy, noise=make_noise_terms(files.layout, num_levels, wish, acceptance, files.steering))


def agnostic_masks(files: BaseFiles, table: WidthCost, budget: int, limits: Limits = NO_LIMITS) -> list[BoolArray]:
    """What the data-agnostic baseline keeps: global L1 order of the base, as in ADaPT (Rajagopal & Bouganis 2020)."""
    widths = rank_widths(files.layout, table, files.l1_scores_C, budget, limits)
    return keep_masks(files.layout, files.l1_scores_C, widths)
