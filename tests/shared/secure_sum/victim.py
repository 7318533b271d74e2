"""One device, lied to: a session up to the lie, and what must be true when the device has refused it."""

from dataclasses import replace

from hostile import Keyring, impostor, in_order, refusal, signed_entry
from sum_world import SESSION, Session, drawn_vectors, identity

from prunefleet_shared.errors import RejectReason
from prunefleet_shared.secure_sum.device_end import Stage
from prunefleet_shared.sum_messages import ContributionCounted, Survivors

N, VICTIM, BITS = 6, 2, [7] * 5
EVERYONE = frozenset(range(N))
CONFUSED = RejectReason.OUT_OF_TURN


def told_at(stage, *, drops=None):
    """A session in which everyone has spoken in ``stage`` and the victim waits for its answer."""
    session = Session(drawn_vectors(N, BITS), BITS).run(drops, until=stage - 1)
    session.alive -= set((drops or {}).get(stage, ()))
    session.send(stage)
    if session.coordinator.stage == stage:
        session.coordinator.end_stage()
    return session, session.ask(VICTIM, session.up[stage][VICTIM])


def assert_refused(session, answer, reason):
    device = session.devices[VICTIM]
    keyring = Keyring.of(device)
    assert keyring.left_in(device)  # the search finds what there is to find
    assert refusal(session, VICTIM, answer) is reason
    assert device.stage is Stage.OVER
    assert keyring.left_in(device) == []
    for later in (answer, Survivors(b""), ContributionCounted(SESSION)):
        assert refusal(session, VICTIM, later) is CONFUSED


def own_digest():
    return identity(VICTIM).certificate_digest


def others(roster):
    return [entry for entry in roster.entries if entry.certificate_digest != own_digest()]


def own(roster):
    return next(entry for entry in roster.entries if entry.certificate_digest == own_digest())


def with_first(roster, **changes):
    """The roster with another device's entry changed."""
    first, *rest = others(roster)
    return in_order([own(roster), replace(first, **changes), *rest])


def colluder_with(roster, mask_key, share_key):
    return in_order([*roster.entries, signed_entry(impostor("other"), mask_key, share_key)])


LOW_ORDER = [bytes(32), bytes([1, *[0] * 31]), (2**255 - 20).to_bytes(32, "little")]
