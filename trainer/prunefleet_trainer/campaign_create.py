"""Makes a campaign: reads or trains the base, traces it, and fills in the document to be signed. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunefleet_edge.latency_terms import fit_error
from prunefleet_edge.models import ARCHITECTURES, ModelSpec, parse_spec
from prunefleet_edge.models.weights import read_base
from prunefleet_edge.profile import DeviceProfile, read_profile
from prunefleet_edge.threads import DEFAULT_THREADS, use_threads
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.decision_rules import DEFAULT_RULES, DecisionRules
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.gate_terms import DEFAULT_GATE, GateTerms
from prunefleet_shared.limits import NO_LIMITS, Limits
from prunefleet_shared.noise_terms import NoiseWish
from prunefleet_trainer.campaign_files import BaseFiles, describe_base, make_campaign, with_latency
from prunefleet_trainer.decision_options import LATENCY, MACS, TRAINING_MEMORY, BudgetWish
from prunefleet_trainer.public import labelled_by, train_base
from prunefleet_trainer.recipe_name import RecipeName
from prunefleet_trainer.recipes import public_recipes
from prunefleet_trainer.retrain_job import epoch_teller

if TYPE_CHECKING:
    from torch import nn

    from prunefleet_edge.data import Samples

MAX_DEADLINE_S = 7 * 24 * 3600
MAX_ATTEMPTS = 1000
COMBINATIONS = ("sum", "median", "trimmed_mean")


@dataclass(frozen=True, slots=True)
class CampaignWish:
    """What an operator asks for.

    Attributes:
        device_class: Whom it is for.
        model: Specification, such as ``resnet8/1x12x12/10``; see ``prunefleet_edge.models``.
        base: The base's safetensors file; None trains one on ``public``.
        public: Public data, as ``data_source.load_source`` reads it; None only with a ``base``.
        levels_permille: What may remain of the dense cost at each level, in thousandths, falling.
        cohort: Whom a session waits for.
        privacy: What the coordinator may learn.
        noise: How much noise hides each device, in mode ``sum+dp``.
        recipe: How a base is trained.
        epochs: Passes over the data, at most; None leaves the recipe's.
        seed: Of a base's first weights and of the order of its training.
        is_steered: Whether devices are asked for a lift mask; needs public data.
        is_unlabelled: Whether the base's own answers take the place of the public data's labels.
        budgets: What a network may cost; the first is what levels are fractions of.
        profile: What was measured on a device of the class; for a budget of latency.
        rules: How a decision follows from the votes.
        limits: What every choice of widths must leave.
        acceptance: By what decisions are judged; None: nothing is.
        gate: What devices set the fleet's network against.
        num_clusters: Parts of the fleet that get a network of their own; more than 1 needs steering.
    """

    device_class: str
    model: str
    base: Path | None
    public: str | None
    levels_permille: tuple[int, ...]
    cohort: CohortPolicy
    privacy: PrivacyTerms
    noise: NoiseWish | None = None
    recipe: RecipeName = RecipeName.AUTO
    epochs: int | None = None
    seed: int = 1
    is_steered: bool = True
    is_unlabelled: bool = False
    budgets: tuple[BudgetWish, ...] = (BudgetWish(MACS),)
    profile: Path | None = None
    rules: DecisionRules = DEFAULT_RULES
    limits: Limits = NO_LIMITS
    acceptance: Acceptance | None = None
    gate: GateTerms = DEFAULT_GATE
    num_clusters: int = 1


def check_cohort(cohort: CohortPolicy) -> CohortPolicy:
    """``cohort`` itself.

    Raises:
        ConfigError: Its numbers are out of range, or do not go together (the user's to mend).
    """
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("cohort", cohort.size, 1, 10_000),
        ("quorum", cohort.quorum, 1, cohort.size),
        ("deadline (s)", cohort.deadline_ms / 1000, 1, MAX_DEADLINE_S),
        ("max-attempts", cohort.max_attempts, 1, MAX_ATTEMPTS),
        ("overselect", cohort.overselection_permille / 1000, 1, 3),
        ("cohorts", cohort.count, 1 if cohort.combination == "sum" else 3, 1000),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            msg = f"{name}: expected {low:g} to {high:g}, got {value:g}"
            raise ConfigError(msg)
    if cohort.combination not in COMBINATIONS:
        msg = f"combination: expected one of {', '.join(COMBINATIONS)}, got {cohort.combination!r}"
        raise ConfigError(msg)
    return cohort


def make_base(wish: CampaignWish, say: Callable[[str], None]) -> BaseFiles:
    """The base of a campaign, traced and described.

    Args:
        wish: What is asked for.
        say: Told in words what happens.

    Raises:
        ConfigError: Neither base nor public data, or no such model (the user's to mend).
        InputError: Base or data cannot be used.
        LayoutError: The base cannot be pruned safely.
    """
    if wish.base is None and wish.public is None:
        msg = "expected --base FILE, or --public SOURCE to train a base on; got neither"
        raise ConfigError(msg)
    if wish.num_clusters > 1 and (wish.public is None or not wish.is_steered):
        msg = "--clusters: parts of what lift masks tell of the fleet; give --public, and leave out --no-steering"
        raise ConfigError(msg)
    use_threads(DEFAULT_THREADS)
    spec = _spec(wish)
    profile = read_profile(wish.profile) if wish.profile else None
    public = _public(wish, spec, say)
    if wish.is_unlabelled and wish.base is None:
        msg = "--unlabelled: a base cannot be trained on data without labels; give one with --base"
        raise ConfigError(msg)
    model = _given(wish.base, spec, public) if wish.base else _trained(wish, spec, public, say)
    if public is not None and wish.is_unlabelled:
        public = labelled_by(model, public)
    say("tracing the base, and checking that its channels can be removed")
    needs_memory = TRAINING_MEMORY in {budget.unit for budget in wish.budgets}
    files = describe_base(
        spec,
        model,
        public if wish.is_steered else None,
        num_clusters=wish.num_clusters,
        with_training_memory=needs_memory,
    )
    return _with_latency(files, profile, wish.limits, say) if profile else files


def _with_latency(files: BaseFiles, profile: DeviceProfile, limits: Limits, say: Callable[[str], None]) -> BaseFiles:
    timed = with_latency(files, profile, limits)
    median, largest = fit_error(profile.table, timed.table(LATENCY), files.layout, limits)
    say(f"latency is fitted to the profile: off by {median:.0%} for half of all networks, by {largest:.0%} at worst")
    return timed


def make_document(
    wish: CampaignWish, files: BaseFiles, *, campaign_id: str, decision_key: bytes, slim_base_key: bytes
) -> Campaign:
    """The campaign's document, to be signed; the keys are public ones, DER.

    Raises:
        ConfigError: Levels, rules or limits are out of range, or cannot be met (the user's to mend).
    """
    return make_campaign(
        files,
        campaign_id=campaign_id,
        device_class=wish.device_class,
        levels_permille=wish.levels_permille,
        cohort=wish.cohort,
        decision_key=decision_key,
        slim_base_key=slim_base_key,
        privacy=wish.privacy,
        noise=wish.noise,
        budget_unit=wish.budgets[0].unit,
        further_budgets=wish.budgets[1:],
        rules=wish.rules,
        limits=wish.limits,
        acceptance=wish.acceptance,
        gate=wish.gate,
    )


def _spec(wish: CampaignWish) -> ModelSpec:
    if wish.model in ARCHITECTURES:
        msg = f"--model {wish.model}: expected its input and classes too, such as {wish.model}/3x32x32/10"
        raise ConfigError(msg)
    return parse_spec(wish.model)


def _public(wish: CampaignWish, spec: ModelSpec, say: Callable[[str], None]) -> Samples | None:
    from prunefleet_edge.data_source import load_source

    if wish.public is None:
        return None
    source = load_source(wish.public, spec, "operator")
    skipped = f" ({len(source.skipped)} files skipped as unreadable)" if source.skipped else ""
    say(f"{len(source.samples)} public images{skipped}")
    return source.samples


def _given(path: Path, spec: ModelSpec, public: Samples | None) -> nn.Module:
    try:
        weights = path.read_bytes()
    except OSError as error:
        msg = f"{path}: expected a safetensors file, got {error.strerror}"
        raise InputError(msg) from None
    return read_base(spec, weights, str(path), public, allowed_code=(spec.architecture,))  # it was typed here


def _trained(wish: CampaignWish, spec: ModelSpec, public: Samples | None, say: Callable[[str], None]) -> nn.Module:
    from prunefleet_edge.data import check_trainable

    if public is None:
        msg = "expected public data to train a base on"
        raise ConfigError(msg)
    check_trainable(public, wish.public or "public data")
    recipe = public_recipes(wish.recipe, spec).with_epochs(wish.epochs).base
    say(f"training a base {spec} for {recipe.epochs} epochs")
    teller = epoch_teller("base", recipe.epochs)
    return train_base(spec, public, recipe, wish.seed, teller, allowed_code=(spec.architecture,))  # it was typed here
