"""``campaign create``: from options to a signed campaign on disk. Torch comes late, after the checks."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
from prunefleet_trainer.decision_options import parse_budgets, parse_limits, parse_rules
from prunefleet_trainer.membership import PatientLink, member_link
from prunefleet_trainer.operator_calls import choose_key, list_members
from prunefleet_trainer.recipe_name import RecipeName

MIN_DEVICES_IN_SUM = 3
"""A sum over two tells each the other's vector."""
_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """The options of ``campaign create``, each under its own name; the command's help says what they are."""

    out: Path
    device_class: str
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


def create_campaign(options: CreateOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Make, sign and write a campaign; returns its facts.

    Args:
        options: The command's.
        say: Told in words what happens.

    Raises:
        ConfigError: Options, membership or folder are wrong (the user's to mend).
        InputError: Base, data or keys cannot be used (the user's to mend).
        RemoteProtocolError: The authority refused.
        CarrierError: It cannot be reached.
    """
    check_free(options.out)
    _check_words(options.device_class, options.privacy)
    signing_key = load_identity(options.folder, Role.OPERATOR).signing_key
    permilles, policy = parse_levels(options.levels), options.policy
    from prunefleet_trainer.campaign_create import CampaignWish, check_cohort, make_base, make_document

    wish = CampaignWish(
        options.device_class,
        options.model,
        options.base,
        options.public,
        permilles,
        check_cohort(policy),
        options.terms,
        options.noise,
        options.recipe,
        options.epochs,
        options.seed,
        options.steering,
        parse_budgets(options.budget, options.profile),
        options.profile,
        options.rules,
        options.limits,
        options.acceptance,
        GateTerms(options.gate_alternative),
    )
    keys = asyncio.run(_keys(options))
    files = make_base(wish, say)
    campaign = make_document(
        wish, files, campaign_id=secrets.token_hex(16), decision_key=keys[0], slim_base_key=keys[1]
    )
    write_campaign(options.out, sign_document("campaign", campaign, signing_key), files.weights)
    return _facts(campaign, options.out)


def _check_words(device_class: str, privacy: str) -> None:
    if not _DEVICE_CLASS.fullmatch(device_class):
        msg = f"--class: expected 1 to 32 of a-z 0-9 -, got {device_class!r}"
        raise ConfigError(msg)
    if privacy not in PRIVACY_MODES:
        msg = f"--privacy: expected one of {', '.join(PRIVACY_MODES)}, got {privacy!r}"
        raise ConfigError(msg)


def parse_levels(text: str) -> tuple[int, ...]:
    """Levels in thousandths from fractions separated by commas, such as ``0.4,0.2``.

    Raises:
        ConfigError: Not numbers, or not whole thousandths between 0 and 1 (the user's to mend).
    """
    try:
        permilles = [1000 * float(part) for part in text.split(",")]
    except ValueError:
        permilles = [-1.0]
    if not all(0 < permille < 1000 and abs(permille - round(permille)) < 1e-6 for permille in permilles):
        msg = f"--levels: expected fractions between 0 and 1 of at most three digits, such as 0.4,0.2; got {text!r}"
        raise ConfigError(msg)
    return tuple(round(permille) for permille in permilles)


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
