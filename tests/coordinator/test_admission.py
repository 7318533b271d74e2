"""One test per rule: what it turns down, and what it lets through."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.admission import (
    why_campaign_impossible,
    why_campaign_refused,
    why_check_in_rejected,
    why_role_rejected,
    why_slim_base_rejected,
    why_sum_message_rejected,
)
from prunefleet_coordinator.session import OpenSession
from prunefleet_coordinator.state import ClosedRound
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import (
    PLAIN,
    SUM,
    SUM_DP,
    CohortPolicy,
    Decision,
    Level,
    NoiseTerms,
    PrivacyTerms,
    SlimBase,
)
from prunefleet_shared.decision_rules import DecisionRules, why_rules_impossible
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import RejectReason
from prunefleet_shared.layout import CostTable, CostTerm
from prunefleet_shared.limits import Limits
from prunefleet_shared.messages import AwaitDecision, CheckIn, GetCampaign, Readiness, Role, SessionKind, Total
from prunefleet_shared.private_sum import SessionFacts, open_coordinator_sum
from prunefleet_shared.sum_messages import Contribute
from prunefleet_shared.testing import TRAINER_PUBLIC

P384_KEY = public_bytes(ec.derive_private_key(7, ec.SECP384R1()).public_key()).hex()
PARAMETERS = CostTable("parameters", (CostTerm(9, (0, 1)), CostTerm(9, (1, 2))))
OPTIONS = ((5, 6, 7), (2, 3, 7))
NOISE = NoiseTerms(epsilon_milli=8_000, delta_power=6, num_outcomes=2, multiplier_milli=1_000)
FACTS = SessionFacts("aa", SessionKind.VOTE, 0, 1)
SESSION = OpenSession(FACTS, 60.0, open_coordinator_sum(small_campaign(), FACTS, None), {"invited"})
CLOSED = (ClosedRound(SessionKind.VOTE, 0, "bb", Total((1,), 1), ("counted",)),)
DECISION = Decision("c", 1, (1,), ((0,),), 5, 2, "digest", "fingerprint")


def reason(rejection):
    return rejection and rejection.reason


@pytest.mark.parametrize(
    ("campaign_id", "fingerprint", "expected"),
    [("c", "f", None), ("d", "f", RejectReason.WRONG_CAMPAIGN), ("c", "g", RejectReason.WRONG_LAYOUT)],
)
def test_check_ins(campaign_id, fingerprint, expected):
    check_in = CheckIn(campaign_id, fingerprint, Readiness.READY)
    assert reason(why_check_in_rejected("c", "f", check_in)) == expected


@pytest.mark.parametrize(
    ("device_id", "session_id", "expected"),
    [
        ("invited", "aa", None),
        ("stranger", "aa", RejectReason.NOT_INVITED),
        ("counted", "bb", RejectReason.DUPLICATE),
        ("invited", "bb", RejectReason.LATE),
        ("invited", "abandoned", RejectReason.LATE),
        ("invited", "unheard of", RejectReason.WRONG_SESSION),
    ],
)
def test_contributions(device_id, session_id, expected):
    message = Contribute(session_id, b"")
    rejection = why_sum_message_rejected(device_id, message, SESSION, CLOSED, {"abandoned"})
    assert reason(rejection) == expected


@pytest.mark.parametrize(
    ("changes", "awaiting", "expected"),
    [
        ({}, DECISION, None),
        ({"campaign_id": "d"}, DECISION, RejectReason.WRONG_CAMPAIGN),
        ({"level": 0}, DECISION, RejectReason.WRONG_DECISION),
        ({"decision_fingerprint": "other"}, DECISION, RejectReason.WRONG_DECISION),
        ({}, None, RejectReason.WRONG_DECISION),
    ],
)
def test_slim_bases(changes, awaiting, expected):
    slim_base = replace(SlimBase("c", 1, "fingerprint", "model", 100), **changes)
    assert reason(why_slim_base_rejected("c", awaiting, slim_base)) == expected


def test_roles_may_only_send_their_own_messages():
    assert why_role_rejected(Role.DEVICE, GetCampaign("camera")) is None
    assert why_role_rejected(Role.TRAINER, AwaitDecision("c")) is None
    assert reason(why_role_rejected(Role.TRAINER, GetCampaign("camera"))) == RejectReason.WRONG_ROLE
    assert reason(why_role_rejected(Role.DEVICE, AwaitDecision("c"))) == RejectReason.WRONG_ROLE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": ()}, "1 to 8 levels"),
        ({"levels": (Level(300, 3000), Level(600, 6000))}, "must not grow"),
        ({"levels": (Level(1, 5),)}, "cannot be met"),
        ({"cohort": CohortPolicy(size=2, quorum=3, deadline_ms=1)}, "quorum"),
        ({"cohort": CohortPolicy(size=2, quorum=0, deadline_ms=1)}, "quorum"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=0)}, "deadline"),
        ({"cohort": CohortPolicy(size=0, quorum=0, deadline_ms=1)}, "1 to 10000 devices"),
        ({"cohort": CohortPolicy(size=10_001, quorum=1, deadline_ms=1)}, "1 to 10000 devices"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=7 * 24 * 3600 * 1000 + 1)}, "7 days"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, max_attempts=0)}, "attempts"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, max_attempts=1001)}, "attempts"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, overselection_permille=999)}, "overselection"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, overselection_permille=3001)}, "overselection"),
        ({"decision_key": ""}, "decision_key"),
        ({"decision_key": "not hex"}, "decision_key"),
        ({"slim_base_key": "00" * 91}, "slim_base_key"),
        ({"slim_base_key": P384_KEY}, "slim_base_key"),
        ({"slim_base_key": TRAINER_PUBLIC.hex().upper()}, "slim_base_key"),
        ({"campaign_id": "c"}, "32 hex digits"),
        ({"base_digest": "../../etc"}, "64"),
        ({"device_class": "Camera!"}, "device class"),
        ({"levels": (Level(1001, 6000),)}, "thousandths"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, stage_ms=0)}, "a stage takes"),
        ({"cohort": CohortPolicy(size=2, quorum=1, deadline_ms=1, stage_ms=24 * 3600 * 1000 + 1)}, "a stage takes"),
        ({"privacy": PrivacyTerms("secret", 3)}, "privacy mode"),
        ({"privacy": PrivacyTerms(SUM, 2)}, "3 to 3 devices"),
        ({"privacy": PrivacyTerms(SUM, 4)}, "3 to 3 devices"),
        ({"privacy": PrivacyTerms(SUM, 3), "cohort": CohortPolicy(1001, 3, deadline_ms=1)}, "at most 1000 devices"),
        ({"privacy": PrivacyTerms(SUM, 3, NOISE)}, "noise belongs to mode sum+dp"),
        ({"privacy": PrivacyTerms(PLAIN, 1, NOISE)}, "noise belongs to mode sum+dp"),
        ({"privacy": PrivacyTerms(SUM_DP, 3)}, "noise belongs to mode sum+dp"),
        ({"acceptance": Acceptance(40, 100)}, "thousandths of accuracy"),
        ({"acceptance": Acceptance(50, 1000)}, "may be worse off"),
        ({"acceptance": Acceptance(50, 100, "guess")}, "a search is one of"),
        ({"acceptance": Acceptance(50, 100, canary_size=4)}, "canaries are 0 to 3"),
        ({"acceptance": Acceptance(50, 100, canary_size=1, canary_count=1001)}, "1 to 1000 cohorts"),
        ({"acceptance": Acceptance(50, 100, canary_size=2), "privacy": PrivacyTerms(SUM, 3)}, "3 to 2 devices"),
        ({"public_order": ((0, 1), (0,), (0,))}, "public order"),
        ({"cost_table": CostTable("macs", (CostTerm(1, (0, 3)),))}, "cost terms"),
        ({"cost_table": CostTable("macs", (CostTerm(-1, (0,)),))}, "cost terms"),
        ({"levels": (Level(600, 3000), Level(300, 40))}, "a budget of 40 macs cannot be met: the smallest widths cost"),
        ({"levels": (Level(600, 3000, (5,)),)}, "each of the 0 further cost tables"),
        ({"further_tables": (PARAMETERS,)}, "each of the 1 further cost tables"),
        (
            {"further_tables": (PARAMETERS,), "levels": (Level(600, 3000, (9,)), Level(300, 1500, (10,)))},
            "must not grow",
        ),
        ({"further_tables": (PARAMETERS,), "levels": (Level(600, 3000, (0,)),)}, "at least 1"),
        ({"further_tables": (PARAMETERS,), "levels": (Level(600, 3000, (1,)),)}, "1 parameters cannot be met"),
        ({"further_tables": (CostTable("macs", ()),), "levels": (Level(600, 3000, (9,)),)}, "a unit of its own"),
        ({"further_tables": (CostTable("ns", (CostTerm(1, (3,)),)),)}, "cost terms"),
        ({"limits": Limits(skipped=frozenset({"tail"}))}, "there is no group tail"),
        ({"limits": Limits(tied=(("stem", "body"),))}, "only groups of the same size"),
        ({"limits": Limits(min_keep=16)}, "cannot be met: the smallest widths cost"),
        ({"rules": DecisionRules("plurality")}, "mean, majority, borda, public"),
        ({"rules": DecisionRules(near_tie_milli=-1)}, "near tie"),
        ({"rules": DecisionRules(public_votes=-1), "public_options": OPTIONS}, "public votes"),
        ({"rules": DecisionRules(public_votes=10**9 + 1), "public_options": OPTIONS}, "public votes"),
        ({"rules": DecisionRules(public_votes=1)}, "public options: expected one for each"),
        ({"public_options": OPTIONS[:1]}, "public options: expected one for each"),
        ({"public_options": ((0, 1, 8), (0, 0, 0))}, "0 to 7"),
    ],
)
def test_campaigns_that_could_never_be_carried_out(changes, words):
    assert why_campaign_impossible(small_campaign()) is None
    assert words in (why_campaign_impossible(small_campaign(**changes)) or "")


@pytest.mark.parametrize("order", ["mean", "majority", "borda", "public"])
def test_rules_that_can_be_followed(order):
    assert why_campaign_impossible(small_campaign(rules=DecisionRules(order, 3, 1000), public_options=OPTIONS)) is None


@pytest.mark.parametrize("rules", [DecisionRules("borda"), DecisionRules(public_votes=1), DecisionRules("mean", 0, 1)])
def test_noisy_votes_are_weighed_by_themselves(rules):
    assert why_rules_impossible(DecisionRules("public"), is_noisy=True) is None
    assert "sum+dp" in (why_rules_impossible(rules, is_noisy=True) or "")


@pytest.mark.parametrize("privacy", [PrivacyTerms(PLAIN, 1), PrivacyTerms(SUM, 3)])
def test_privacy_terms_that_can_be_carried_out(privacy):
    assert why_campaign_impossible(small_campaign(privacy=privacy)) is None


@pytest.mark.parametrize(
    ("mode", "allow_plain", "is_refused"),
    [(PLAIN, False, True), (PLAIN, True, False), (SUM, False, False), (SUM, True, False)],
)
def test_mode_plain_needs_a_coordinator_that_allows_it(mode, allow_plain, is_refused):
    campaign = small_campaign(privacy=PrivacyTerms(mode, 3))
    refusal = why_campaign_refused(campaign, campaign.decision_key, allow_plain=allow_plain)
    assert (refusal is not None) == is_refused
    assert refusal is None or "--privacy sum" in refusal.remedy


def test_a_campaign_must_be_possible_and_name_this_coordinators_key():
    campaign = small_campaign()
    assert reason(why_campaign_refused(campaign, "another key", allow_plain=True)) == RejectReason.WRONG_CAMPAIGN
    impossible = small_campaign(levels=())
    refusal = why_campaign_refused(impossible, impossible.decision_key, allow_plain=True)
    assert refusal is not None
    assert "1 to 8 levels" in refusal.got
