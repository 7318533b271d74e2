"""A coordinator that lies to a device is refused by name; nothing is sent, and the session's keys are gone."""

from dataclasses import replace

import pytest
from hostile import Keyring, impostor, public_of, refusal
from sum_world import CONTEXT, Session, drawn_vectors, identity, seeded
from victim import (
    BITS,
    CONFUSED,
    EVERYONE,
    LOW_ORDER,
    VICTIM,
    N,
    assert_refused,
    colluder_with,
    told_at,
)

from prunefleet_shared.errors import Rejection, RejectReason, RemoteProtocolError
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, Stage, SumTerms
from prunefleet_shared.secure_sum.roster import roster_statement, survivors_statement
from prunefleet_shared.sum_messages import (
    CertificateList,
    Confirmations,
    ContributionCounted,
    PeerShares,
    Survivors,
    member_set,
)

# --- shares and signatures over the roster ---------------------------------------------------------------------------


def signature_of(session, number, statement):
    return session.devices[number]._identity.sign(statement)


def position(session, number):
    return session.order().index(number)


def senders_answer(session, chosen, *, sign=None):
    """What an honest coordinator would hand the victim of these senders, in order; ``sign`` replaces signatures."""
    order = session.order()
    numbers = [i for i in order if i in chosen]
    gathered = session.coordinator._gathered.shares
    end = session.coordinator._shares_for(position(session, VICTIM), session.up[2][VICTIM])
    sealed = dict(
        zip([i for i in order if i != VICTIM], (end.shares[k : k + 80] for k in range(0, 80 * N, 80)), strict=False)
    )
    signatures = {i: gathered[order.index(i)].signature for i in numbers}
    signatures |= {i: sign(i) for i in numbers} if sign else {}
    bits = member_set({order.index(i) for i in numbers}, N)
    shares = b"".join(sealed[i] for i in numbers if i != VICTIM)
    return PeerShares(bits, shares, b"".join(signatures[i] for i in numbers))


def test_the_answers_made_here_are_good_when_nothing_is_changed():
    session, good = told_at(2)
    assert senders_answer(session, EVERYONE) == good
    assert refusal(session, VICTIM, senders_answer(session, EVERYONE - {4})) is None


def over(statement_of):
    return lambda s: senders_answer(s, EVERYONE, sign=lambda i: signature_of(s, i, statement_of(s.devices[i])))


BAD_SHARES = {
    "fewer than a threshold": (lambda s: senders_answer(s, {0, 1, 2, 3}), "NO_AGREEMENT"),
    "without this device": (lambda s: senders_answer(s, EVERYONE - {VICTIM}), "MALFORMED"),
    "one signature for all": (
        lambda s: senders_answer(s, EVERYONE, sign=lambda i: s.up[2][0].signature),
        "NO_AGREEMENT",
    ),
    "by those who did not send": (
        lambda s: senders_answer(s, {0, 1, 2, 3}, sign=lambda i: s.up[2][5 - i].signature),
        "NO_AGREEMENT",
    ),
    "over another roster": (over(lambda d: roster_statement(CONTEXT, bytes(32))), "NO_AGREEMENT"),
    "in another session": (over(lambda d: roster_statement(bytes(32), d._roster)), "NO_AGREEMENT"),
    "of the survivors' kind": (
        over(lambda d: survivors_statement(CONTEXT, d._roster, b"\x3f")),
        "NO_AGREEMENT",
    ),
    "more signatures than senders": (
        lambda s: replace(a := senders_answer(s, {0, 1, 2, 3}), signatures=a.signatures + s.up[2][4].signature),
        "MALFORMED",
    ),
    "a share too few": (lambda s: replace(a := senders_answer(s, EVERYONE), shares=a.shares[80:]), "MALFORMED"),
    "padding bits": (lambda s: replace(senders_answer(s, EVERYONE), senders=b"\x7f"), "MALFORMED"),
    "another roster's size": (lambda s: replace(senders_answer(s, EVERYONE), senders=b"\x3f\x00"), "MALFORMED"),
    "nobody": (lambda s: PeerShares(b"\0", b"", b""), "MALFORMED"),
}


@pytest.mark.parametrize("name", BAD_SHARES)
def test_shares(name):
    change, reason = BAD_SHARES[name]
    session, _ = told_at(2)
    assert_refused(session, change(session), RejectReason[reason])


@pytest.mark.parametrize("key", LOW_ORDER)
def test_a_mask_key_of_low_order_is_refused_before_a_vector_leaves(key):
    """A peer whose mask everybody knows: found when the mask would be made."""
    session, good = told_at(1)
    assert refusal(session, VICTIM, colluder_with(good, key, public_of(b"x"))) is None
    device = session.devices[VICTIM]
    signed = [signature_of(session, i, roster_statement(CONTEXT, device._roster)) for i in EVERYONE]
    by_digest = {identity(i).certificate_digest: sig for i, sig in zip(EVERYONE, signed, strict=True)}
    digests = [entry.certificate_digest for entry in device._entries]
    other = impostor("other").sign(roster_statement(CONTEXT, device._roster))
    signatures = b"".join(by_digest.get(digest, other) for digest in digests)
    answer = PeerShares(member_set(set(range(N + 1)), N + 1), bytes(80 * N), signatures)
    assert_refused(session, answer, RejectReason.BAD_ROSTER)


# --- survivors -------------------------------------------------------------------------------------------------------


def bits_of(session, numbers):
    return Survivors(member_set({position(session, i) for i in numbers}, N))


BAD_SURVIVORS = {
    "one who sent no shares": (lambda s: bits_of(s, EVERYONE), "BAD_SURVIVORS"),
    "without this device": (lambda s: bits_of(s, EVERYONE - {5, VICTIM}), "BAD_SURVIVORS"),
    "too few": (lambda s: bits_of(s, {0, 1, 2, 3}), "BAD_SURVIVORS"),
    "nobody": (lambda s: Survivors(b"\0"), "BAD_SURVIVORS"),
    "padding bits": (lambda s: Survivors(b"\xff"), "MALFORMED"),
    "another roster's size": (lambda s: Survivors(b"\x3f\0"), "MALFORMED"),
    "no bits": (lambda s: Survivors(b""), "MALFORMED"),
}


@pytest.mark.parametrize("name", BAD_SURVIVORS)
def test_survivors(name):
    change, reason = BAD_SURVIVORS[name]
    session, good = told_at(3, drops={2: [5]})
    assert good == bits_of(session, EVERYONE - {5})
    assert_refused(session, change(session), RejectReason[reason])


def test_survivors_fewer_than_the_owner_wants():
    session, _ = told_at(3)
    session.devices[VICTIM]._terms = SumTerms(6, 64)
    assert_refused(session, bits_of(session, EVERYONE - {5}), RejectReason.BAD_SURVIVORS)


def test_survivors_whom_the_owner_will_not_have_released():
    session, good = told_at(3)
    asked = []

    def why(names):
        asked.append(names)
        return Rejection(RejectReason.TOO_ALIKE)

    session.devices[VICTIM]._terms = SumTerms(3, 64, why)
    assert_refused(session, good, RejectReason.TOO_ALIKE)
    assert asked == [frozenset(f"device-{i:03d}" for i in EVERYONE)]


def test_keys_are_gone_after_our_own_bugs_too():
    session, good = told_at(3)
    device, keyring = session.devices[VICTIM], Keyring.of(session.devices[VICTIM])
    device._terms = SumTerms(3, 64, lambda names: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        device.receive(good)
    assert device.stage is Stage.OVER
    assert keyring.left_in(device) == []


def test_a_second_set_of_survivors():
    session, good = told_at(3)
    session.devices[VICTIM].receive(good)
    assert_refused(session, bits_of(session, EVERYONE - {5}), CONFUSED)


# --- signatures over the survivors -----------------------------------------------------------------------------------


def confirmations(session, numbers, statement=None):
    order = session.order()
    numbers = [i for i in order if i in numbers]
    device = session.devices[VICTIM]
    stated = statement or survivors_statement(CONTEXT, device._roster, device._survivor_bits)
    bits = member_set({order.index(i) for i in numbers}, N)
    return Confirmations(bits, b"".join(signature_of(session, i, stated) for i in numbers))


OTHERS = b"\x3f"  # all six, where one has dropped out: whatever its position, another set
BAD_CONFIRMATIONS = {
    "fewer than a threshold": (lambda s: confirmations(s, {0, 1, 2, 3}), "NO_AGREEMENT"),
    "over other survivors": (
        lambda s: confirmations(s, EVERYONE - {5}, survivors_statement(CONTEXT, s.devices[0]._roster, OTHERS)),
        "NO_AGREEMENT",
    ),
    "in another session": (
        lambda s: confirmations(
            s, EVERYONE - {5}, survivors_statement(bytes(32), s.devices[0]._roster, s.devices[0]._survivor_bits)
        ),
        "NO_AGREEMENT",
    ),
    "of the roster's kind": (
        lambda s: confirmations(s, EVERYONE - {5}, roster_statement(CONTEXT, s.devices[0]._roster)),
        "NO_AGREEMENT",
    ),
    "by one who did not survive": (lambda s: confirmations(s, EVERYONE), "MALFORMED"),
    "its own for all": (
        lambda s: replace(confirmations(s, EVERYONE - {5}), signatures=s.up[4][VICTIM].signature * 5),
        "NO_AGREEMENT",
    ),
    "cut short": (lambda s: replace(a := confirmations(s, EVERYONE - {5}), signatures=a.signatures[:-1]), "MALFORMED"),
    "padding bits": (lambda s: replace(confirmations(s, EVERYONE - {5}), confirmers=b"\xff"), "MALFORMED"),
    "nobody": (lambda s: Confirmations(b"\0", b""), "NO_AGREEMENT"),
}


@pytest.mark.parametrize("name", BAD_CONFIRMATIONS)
def test_confirmations(name):
    change, reason = BAD_CONFIRMATIONS[name]
    session, _ = told_at(4, drops={3: [5]})
    assert_refused(session, change(session), RejectReason[reason])


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", range(1, 5))
def test_answers_of_every_other_stage_and_the_last_one_again(stage):
    whole = Session(drawn_vectors(N, BITS), BITS).run()
    wrong = {number: whole.down[number][VICTIM] for number in range(1, 6) if number != stage}
    for answer in [*wrong.values(), CertificateList((), ())]:
        session, _ = told_at(stage)
        assert_refused(session, answer, CONFUSED)


@pytest.mark.parametrize("stage", range(1, 5))
def test_answers_of_a_session_before_this_one(stage):
    """Recorded answers under another context: none is good again."""
    before = Session(drawn_vectors(N, BITS), BITS, context=bytes(32), seed="before").run()
    session, _ = told_at(stage)
    answer = before.down[stage][VICTIM]
    if stage != 3:  # a set of survivors alone says nothing of a session: its signatures do, a stage later
        reason = RejectReason.BAD_ROSTER if stage == 1 else RejectReason.NO_AGREEMENT
        assert_refused(session, answer, reason)


def test_the_end_of_another_session():
    session, _ = told_at(5)
    assert refusal(session, VICTIM, ContributionCounted("00" * 16)) is RejectReason.WRONG_SESSION
    assert session.devices[VICTIM].stage is Stage.OVER


def test_keys_are_gone_before_the_last_message_leaves():
    session = Session(drawn_vectors(N, BITS), BITS).run(until=3)
    keyring = Keyring.of(session.devices[VICTIM])
    session.stage(4)
    assert session.devices[VICTIM].stage is Stage.UNMASKED
    assert keyring.left_in(session.devices[VICTIM]) == []


def test_an_abort_from_outside_is_the_same():
    session, good = told_at(3)
    keyring = Keyring.of(session.devices[VICTIM])
    session.devices[VICTIM].abort()
    assert keyring.left_in(session.devices[VICTIM]) == []
    with pytest.raises(RemoteProtocolError, match="OUT_OF_TURN"):
        session.devices[VICTIM].receive(good)


# --- what no device can notice ---------------------------------------------------------------------------------------


def test_a_coordinator_may_leave_out_whom_it_likes_as_far_as_the_threshold():
    """Limit, written in the threat model: of n devices it chooses which n - t are not in the sum."""
    session = Session(drawn_vectors(N, BITS), BITS).run(until=2)
    session.alive -= {0}  # its vector is on the way, and thrown away
    session.stage(3)
    session.stage(4)
    session.stage(5)
    assert session.total().tolist() == session.expected(EVERYONE - {0}).tolist()


def test_a_device_is_never_told_the_sum():
    """Limit: that the published sum is the true one, nothing here proves."""
    session = Session(drawn_vectors(N, BITS), BITS).run()
    assert {type(answer) for answer in session.down[5].values()} == {ContributionCounted}
    assert SecureDeviceSum.receive.__annotations__["return"] == "SumUp | None"
    assert seeded("x")(4) == seeded("x")(4)
