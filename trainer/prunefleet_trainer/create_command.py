"""``campaign create``: from options to a signed campaign on disk. Torch comes late, after the checks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.acceptance import Acceptance, Search, why_acceptance_impossible
from prunefleet_shared.campaign import PLAIN, PRIVACY_MODES, SUM_DP, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.decision_rules import DecisionRules
from prunefleet_shared.documents import public_bytes, sign_document
from prunefleet_shared.durations import parse_duration_s
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.gate_terms import GateTerms
from prunefleet_shared.identity_folder import default_state, load_identity
from prunefleet_shared.limits import Limits
from prunefleet_shared.noise_terms import NoiseWish
from prunefleet_shared.roles import Role
from prunefleet_trainer.campaign_folder import check_free, write_campaign
from prunefleet_trainer.class_levels import ClassLevels, parse_classes
from prunefleet_trainer.decision_options import parse_budgets, parse_limits, parse_rules
from prunefleet_trainer.membership import PatientLink, member_link
from prunefleet_trainer.operator_calls import choose_key, list_members
from prunefleet_trainer.recipe_name import RecipeName

MIN_DEVICES_IN_SUM = 3
"""A sum over two tells each the other's vector."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """The options of ``campaign create``, each under its own name; the command's help says what they are."""

    out: Path
    classes: list[str]
    model: str
    base: Path | None
    public: str | None
    levels: str
    cohort: int
    quorum: int
    deadline: str
    max_attempts: int
    overselect: float
    cohorts: int
    combination: str
    max_loss: float | None
    max_worse: float
    search: str
    canary: int
    canary_cohorts: int
    coordinator: str | None
    trainer: str | None
    decision_key: Path | None
    slim_base_key: Path | None
    privacy: str
    min_devices: int
    epsilon: float
    delta_power: int
    recipe: RecipeName
    epochs: int | None
    seed: int
    steering: bool
    clusters: int
    unlabelled: bool
    state: Path | None
    budget: list[str] | None
    profile: Path | None
    order_rule: str
    public_votes: int
    near_tie: float
    min_keep: int
    round_to: int
    skip: list[str] | None
    tie: list[str] | None
    gate_alternative: str

    @property
    def folder(self) -> Path:
        """The operator's state folder."""
        return self.state or default_state(Role.OPERATOR)

    @property
    def policy(self) -> CohortPolicy:
        """Whom a session waits for; its ranges are not checked yet."""
        deadline_ms = 1000 * parse_duration_s(self.deadline, "--deadline")
        return CohortPolicy(
            self.cohort,
            self.quorum,
            deadline_ms,
            self.max_attempts,
            overselection_permille=round(1000 * self.overselect),
            count=self.cohorts,
            combination=self.combination,
        )

    @property
    def terms(self) -> PrivacyTerms:
        """What the coordinator may learn.

        Raises:
            ConfigError: A sum over fewer devices than may be, or over more than a cohort has.
        """
        if self.privacy == PLAIN:
            return PrivacyTerms(PLAIN, 1)
        if not MIN_DEVICES_IN_SUM <= self.min_devices <= self.cohort:
            msg = (
                f"--min-devices: a sum is over {MIN_DEVICES_IN_SUM} devices to the cohort's {self.cohort}, got "
                f"{self.min_devices}; raise --cohort, or see --privacy"
            )
            raise ConfigError(msg)
        return PrivacyTerms(self.privacy, self.min_devices)

    @property
    def acceptance(self) -> Acceptance | None:
        """By what decisions are judged; None where nothing is.

        Raises:
            ConfigError: Terms that nothing could be judged by, or canaries fewer than a sum is over.
        """
        if self.max_loss is None:
            if self.canary or self.search != Search.DESCEND:
                msg = "--canary and --search need a floor to judge by; say --max-loss, such as 0.05"
                raise ConfigError(msg)
            return None
        terms = Acceptance(
            round(1000 * self.max_loss), round(1000 * self.max_worse), self.search, self.canary, self.canary_cohorts
        )
        why = why_acceptance_impossible(terms, self.cohort)
        if why is None and self.privacy != PLAIN and 0 < self.canary < self.min_devices:
            why = f"a sum is over {self.min_devices} devices (--min-devices), got {self.canary} canaries"
        if why:
            msg = f"--max-loss, --max-worse, --search, --canary: {why}"
            raise ConfigError(msg)
        return terms

    @property
    def noise(self) -> NoiseWish | None:
        """How much noise is wanted, in mode ``sum+dp``."""
        return NoiseWish(round(1000 * self.epsilon), self.delta_power) if self.privacy == SUM_DP else None

    @property
    def rules(self) -> DecisionRules:
        """How a decision follows from the votes; ConfigError where it could not."""
        return parse_rules(self.order_rule, self.public_votes, self.near_tie, is_noisy=self.privacy == SUM_DP)

    @property
    def limits(self) -> Limits:
        """What every choice of widths must leave; ConfigError where a number is out of range."""
        return parse_limits(self.min_keep, self.round_to, self.skip, self.tie)


def create_campaigns(options: CreateOptions, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Make, sign and write a campaign for each class, all of one base; returns their facts.

    A single class's folder is ``options.out`` itself, of several each is a folder in it.

    Args:
        options: The command's.
        say: Told in words what happens.

    Raises:
        ConfigError: Options, membership or folder are wrong (the user's to mend).
        InputError: Base, data or keys cannot be used (the user's to mend).
        RemoteProtocolError: The authority refused.
        CarrierError: It cannot be reached.
    """
    folders = _folders(options)
    check_privacy_mode(options.privacy)
    signing_key = load_identity(options.folder, Role.OPERATOR).signing_key
    policy = options.policy
    from prunefleet_trainer.campaign_create import CampaignWish, check_cohort, make_base, make_document

    first = next(iter(folders))
    wish = CampaignWish(
        first.device_class,
        options.model,
        options.base,
        options.public,
        first.levels_permille,
        check_cohort(policy),
        options.terms,
        options.noise,
        options.recipe,
        options.epochs,
        options.seed,
        options.steering,
        options.unlabelled,
        parse_budgets(options.budget, options.profile),
        options.profile,
        options.rules,
        options.limits,
        options.acceptance,
        GateTerms(options.gate_alternative),
        options.clusters,
    )
    keys = asyncio.run(_keys(options))
    files, campaigns = make_base(wish, say), {}
    for one, folder in folders.items():
        asked = replace(wish, device_class=one.device_class, levels_permille=one.levels_permille)
        campaigns[folder] = make_document(
            asked, files, campaign_id=secrets.token_hex(16), decision_key=keys[0], slim_base_key=keys[1]
        )
    for folder, campaign in campaigns.items():  # once all of them are known to be possible
        write_campaign(folder, sign_document("campaign", campaign, signing_key), files.weights)
    return [_facts(campaign, folder) for folder, campaign in campaigns.items()]


def _folders(options: CreateOptions) -> dict[ClassLevels, Path]:
    classes = parse_classes(options.classes, options.levels)
    if len(classes) > 1 and options.profile is not None:
        msg = "--profile: was measured on a device of one class; create the campaigns of other classes by themselves"
        raise ConfigError(msg)
    is_one = len(classes) == 1
    folders = {one: options.out if is_one else options.out / one.device_class for one in classes}
    for folder in (options.out, *folders.values()):
        check_free(folder)
    return folders


def check_privacy_mode(privacy: str) -> None:
    """Refuse a mode that there is not.

    Raises:
        ConfigError: There is none of this name (the user's to mend).
    """
    if privacy not in PRIVACY_MODES:
        msg = f"--privacy: expected one of {', '.join(PRIVACY_MODES)}, got {privacy!r}"
        raise ConfigError(msg)


async def _keys(options: CreateOptions) -> tuple[bytes, bytes]:
    """Who signs decisions, and who signs slim bases: public keys, DER."""
    asked = (
        (Role.COORDINATOR, options.coordinator, options.decision_key),
        (Role.TRAINER, options.trainer, options.slim_base_key),
    )
    keys = [_read_key(path) if path else await _ask_key(options.folder, role, name) for role, name, path in asked]
    return keys[0], keys[1]


async def _ask_key(folder: Path, role: Role, name: str | None) -> bytes:
    async with member_link(folder, Role.OPERATOR, to_authority=True) as link:
        return choose_key(await list_members(PatientLink(link), role), role, name)


def _read_key(path: Path) -> bytes:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        msg = f"{path}: expected a public key, got {error.strerror}"
        raise InputError(msg) from None
    except ValueError:
        msg = f"{path}: expected a public key in PEM, got something else"
        raise InputError(msg) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        msg = f"{path}: expected a P-256 public key, got another kind"
        raise InputError(msg)
    return public_bytes(key)


def _floor_words(terms: Acceptance | None) -> str:
    if terms is None:
        return "nothing is judged: a level follows whatever came of the one before (see --max-loss)"
    canaries = (
        f"{terms.canary_count} x {terms.canary_size} canaries first" if terms.canary_size else "no canaries apart"
    )
    return (
        f"promoted while at most {terms.max_worse_permille / 10:g} % of devices lose more than "
        f"{terms.max_loss_permille / 10:g} points against their dense copies; {terms.search}; {canaries}"
    )


def _facts(campaign: Campaign, folder: Path) -> dict[str, Any]:
    return {
        "campaign_id": campaign.campaign_id,
        "folder": str(folder),
        "device_class": campaign.device_class,
        "model": campaign.model,
        "privacy_mode": campaign.privacy.mode,
        "is_steered": campaign.steering is not None,
        "num_clusters": campaign.steering.num_clusters if campaign.steering else 1,
        "base_digest": campaign.base_digest,
        "num_groups": len(campaign.layout.groups),
        "num_channels": campaign.layout.num_channels,
        "cost_unit": campaign.cost_table.unit,
        "dense_cost": campaign.cost_table.cost(campaign.layout.dense_widths),
        "levels": [{"permille": level.permille, "budget": level.budget} for level in campaign.levels],
        "further_budgets": [
            {
                "cost_unit": table.unit,
                "dense_cost": table.cost(campaign.layout.dense_widths),
                "budgets": [level.further_budgets[index] for level in campaign.levels],
            }
            for index, table in enumerate(campaign.further_tables)
        ],
        "rules": asdict(campaign.rules),
        "floor": _floor_words(campaign.acceptance),
        "gate_alternative": campaign.gate.alternative,
        "vote_bytes": campaign.vote_lanes.packed_bytes,
    }
