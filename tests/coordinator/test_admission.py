"""One test per rule: what it turns down, and what it lets through."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.admission import (
    why_campaign_impossible,
    why_check_in_rejected,
    why_contribution_rejected,
    why_role_rejected,
    why_slim_base_rejected,
)
from prunefleet_coordinator.session import OpenSession
from prunefleet_coordinator.state import ClosedRound
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.campaign import CohortPolicy, Decision, Level, SlimBase
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import RejectReason
from prunefleet_shared.layout import CostTable, CostTerm
from prunefleet_shared.messages import AwaitDecision, CheckIn, GetCampaign, Readiness, Role, SessionKind
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.private_sum import PLAIN, Total, open_coordinator_sum
from prunefleet_shared.testing import TRAINER_PUBLIC

P384_KEY = public_bytes(ec.derive_private_key(7, ec.SECP384R1()).public_key()).hex()
SESSION = OpenSession("aa", SessionKind.VOTE, 0, 1, 60.0, open_coordinator_sum(PLAIN, OUTCOME_LANES), {"invited"})
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
    rejection = why_contribution_rejected(device_id, session_id, SESSION, CLOSED, {"abandoned"})
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
        ({"privacy_mode": "sum"}, "privacy mode"),
        ({"public_order": ((0, 1), (0,), (0,))}, "public order"),
        ({"cost_table": CostTable("macs", (CostTerm(1, (0, 3)),))}, "cost terms"),
        ({"cost_table": CostTable("macs", (CostTerm(-1, (0,)),))}, "cost terms"),
    ],
)
def test_campaigns_that_could_never_be_carried_out(changes, words):
    assert why_campaign_impossible(small_campaign()) is None
    assert words in (why_campaign_impossible(small_campaign(**changes)) or "")
