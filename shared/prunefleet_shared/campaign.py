"""Signed documents of a campaign: what is asked, what was decided, what was shipped; what was ruled: ``acceptance``.

All numbers are integers, so that a decision replays bit for bit on any machine (see ``documents``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.decision_rules import DEFAULT_RULES, DecisionRules
from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.gate_terms import DEFAULT_GATE, GateTerms
from prunefleet_shared.lanes import LaneTable, vote_lanes
from prunefleet_shared.layout import CostTable, Layout
from prunefleet_shared.limits import NO_LIMITS, Constraint, JointCost, Limits
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.metrics import outcome_lanes
from prunefleet_shared.steering_terms import SteeringTerms

PLAIN, SUM, SUM_DP = "plain", "sum", "sum+dp"
PRIVACY_MODES = (PLAIN, SUM, SUM_DP)
"""``plain``: the coordinator sees each contribution. ``sum``: only their exact sum. ``sum+dp``: only a noisy sum."""
MIN_ROBUST_COHORTS = 3
"""Of fewer cohorts there is no middle that a single bad one cannot move."""


@dataclass(frozen=True, slots=True)
class CohortPolicy:
    """Whom a session waits for, and how long; a round is over one cohort or several, each with a session of its own.

    Attributes:
        size: Contributions at which a session closes at once.
        quorum: Contributions without which a session is given up.
        deadline_ms: Time from a session's first invitation to its closing.
        max_attempts: Sessions opened for the same round before the campaign fails.
        stage_ms: Longest time for each stage of a private sum after the first, once all that take part are there.
        overselection_permille: Devices invited for each 1000 of ``size``, rounded up: some always fall asleep. 1300 is
            what Bonawitz et al. 2019 (section 9) invite.
        count: Cohorts of a round.
        combination: How their sums become one: ``sum``, ``median`` or ``trimmed_mean``.
    """

    size: int
    quorum: int
    deadline_ms: int
    max_attempts: int = 3
    stage_ms: int = 60_000
    overselection_permille: int = 1300
    count: int = 1
    combination: str = "sum"

    @property
    def max_invited(self) -> int:
        """Devices that may hold an invitation to one session."""
        return -(-self.size * self.overselection_permille // 1000)


@dataclass(frozen=True, slots=True)
class NoiseTerms:
    """How much noise hides each device in a sum; see ``noise`` for what it means and ``privacy_budget`` for the price.

    Attributes:
        epsilon_milli: Epsilon of the whole campaign, in thousandths.
        delta_power: Delta of the whole campaign is ``10 ** -delta_power``; 3 to 12.
        num_outcomes: Outcome sums that the budget covers, beside one vote sum.
        multiplier_milli: Noise multiplier, in thousandths: standard deviation of the summed noise over sensitivity.
    """

    epsilon_milli: int
    delta_power: int
    num_outcomes: int
    multiplier_milli: int


@dataclass(frozen=True, slots=True)
class PrivacyTerms:
    """What the coordinator may learn.

    Attributes:
        mode: One of :data:`PRIVACY_MODES`.
        min_devices: Fewest devices in any sum.
        noise: In mode ``sum+dp``, and only there.
    """

    mode: str
    min_devices: int
    noise: NoiseTerms | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the schedule.

    Attributes:
        permille: Nominal fraction of the dense cost that may remain, in thousandths.
        budget: The same as an absolute cost, in the cost table's unit.
        further_budgets: One for each of the campaign's further tables, in its unit.
    """

    permille: int
    budget: int
    further_budgets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Campaign:
    """What the operator asks of one device class; signed, and checked by every device against its own policy.

    Attributes:
        campaign_id: 32 hex digits, unique.
        device_class: The class of devices it is for.
        privacy: What the coordinator may learn of it all.
        model: Name of the architecture, such as ``resnet20``.
        base_digest: SHA-256 (hex) of the base model's safetensors file.
        layout: Channel groups of the base.
        cost_table: Cost of any widths.
        levels: The schedule, largest budget first; at most 8.
        public_order: For every group, its channels best first by the L1 norm of the base: the prior without a fleet.
        cohort: Whom a session waits for.
        decision_key: Whose signature makes a decision of this campaign: P-256, DER, in hex (182 digits).
        slim_base_key: Whose signature makes a slim base of it.
        steering: What devices compare their use of channels with; None where nothing is steered.
        rules: How a decision follows from the votes.
        public_options: For every level and group, the width option that the public order would vote for; counts in the
            decision as ``rules.public_votes`` devices. Empty where nobody worked it out.
        further_tables: Costs that have budgets of their own beside the cost table's; all hold at once.
        limits: What every choice of widths must leave, the fleet's and each device's.
        acceptance: By what its decisions are judged; None: nothing is judged, a level follows whatever the outcome.
        gate: What devices set the fleet's network against.
    """

    campaign_id: str
    device_class: str
    privacy: PrivacyTerms
    model: str
    base_digest: str
    layout: Layout
    cost_table: CostTable
    levels: tuple[Level, ...]
    public_order: tuple[tuple[int, ...], ...]
    cohort: CohortPolicy
    decision_key: str
    slim_base_key: str
    steering: SteeringTerms | None = None
    rules: DecisionRules = DEFAULT_RULES
    public_options: tuple[tuple[int, ...], ...] = ()
    further_tables: tuple[CostTable, ...] = ()
    limits: Limits = NO_LIMITS
    acceptance: Acceptance | None = None
    gate: GateTerms = DEFAULT_GATE

    def constraints(self, level: int) -> tuple[Constraint, ...]:
        """What a network of ``level`` (0-based) may cost, in every table; the cost table's comes first."""
        step, tables = self.levels[level], (self.cost_table, *self.further_tables)
        budgets = (step.budget, *step.further_budgets)
        return tuple(Constraint(table, budget) for table, budget in zip(tables, budgets, strict=True))

    def joint_cost(self, level: int) -> JointCost:
        """All constraints of a level as one cost: at most the level's ``budget`` just where they all are met."""
        return JointCost(self.constraints(level))

    @property
    def vote_lanes(self) -> LaneTable:
        """The lane table of the vote session; it follows from layout and schedule."""
        is_noisy, is_steered = self.privacy.noise is not None, self.steering is not None
        return vote_lanes(self.layout, len(self.levels), is_noisy=is_noisy, is_steered=is_steered)

    def lanes_of(self, kind: SessionKind) -> LaneTable:
        """The lane table of a session: what a contribution to it consists of."""
        if kind is SessionKind.VOTE:
            return self.vote_lanes
        return outcome_lanes(is_judged=self.acceptance is not None, num_networks=self.num_networks)

    @property
    def num_networks(self) -> int:
        """Networks that a slim base has at most."""
        return 1 if self.steering is None else self.steering.num_networks

    @property
    def has_canaries(self) -> bool:
        """Whether few devices try a decision before all are given it."""
        return self.acceptance is not None and self.acceptance.canary_size > 0

    def cohort_of(self, kind: SessionKind) -> CohortPolicy:
        """Whom a session of this kind waits for: canaries, where there are some, for the outcome of a new decision."""
        terms = self.acceptance
        if terms is None or not terms.canary_size or kind is not SessionKind.OUTCOME:
            return self.cohort
        size, count = terms.canary_size, terms.canary_count
        # As large a part of the canaries as of the cohort; a robust rule needs three cohorts.
        quorum = -(-size * self.cohort.quorum // self.cohort.size)
        combination = self.cohort.combination if count >= MIN_ROBUST_COHORTS else "sum"
        return replace(self.cohort, size=size, quorum=quorum, count=count, combination=combination)


@dataclass(frozen=True, slots=True)
class Decision:
    """The network's shape at one level, as it follows from a cohort's sum.

    Attributes:
        campaign_id: The campaign decided for.
        level: 0-based index into the campaign's schedule.
        widths: Channels kept in each group.
        prior: For each group, all its channels, the ones to keep first.
        cost: Cost of ``widths``, at most the level's budget.
        num_devices: Contributions in the sum.
        tally_digest: SHA-256 (hex) over the sum.
        fingerprint: SHA-256 (hex) over layout, tallies, rules, limits, costs, widths, prior: no time, no metric.
    """

    campaign_id: str
    level: int
    widths: tuple[int, ...]
    prior: tuple[tuple[int, ...], ...]
    cost: int
    num_devices: int
    tally_digest: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SlimBase:
    """The trainer's answer to a decision: the base pruned to it and, where there are public data, retrained on them.

    Attributes:
        campaign_id: The campaign.
        level: The decision's level.
        decision_fingerprint: The decision it was made for.
        model_digest: SHA-256 (hex) of the safetensors file with the slim network; with clusters, with all of them.
        model_bytes: Size of that file.
        steering_digest: SHA-256 (hex) of the trainer's record of how it was steered (``steering_record``), which stays
            with the operator; empty where nothing was steered.
        is_retrained: False where the trainer had no public data: the network is the base without the channels that had
            to go, good for devices without data; one with data prunes its own dense copy instead.
    """

    campaign_id: str
    level: int
    decision_fingerprint: str
    model_digest: str
    model_bytes: int
    steering_digest: str = ""
    is_retrained: bool = True


def decision_fingerprint(
    campaign: Campaign,
    level: int,
    tally: tuple[int, ...],
    widths: tuple[int, ...],
    prior: tuple[tuple[int, ...], ...],
) -> str:
    """SHA-256 (hex) that any two decisions made from the same facts, by the same rules, share."""
    facts = {
        "constraints": campaign.constraints(level),
        "layout": campaign.layout,
        "limits": campaign.limits,
        "prior": prior,
        "public_options": campaign.public_options,
        "rules": campaign.rules,
        "tally": tally,
        "widths": widths,
    }
    return hashlib.sha256(canonical_bytes(facts)).hexdigest()
