"""A whole coordinator on a real port: whatever is thrown at it has its answer, and the sum stays the honest one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import (
    BASE_MODEL,
    FakeClock,
    counting_ids,
    random_vote,
    small_campaign,
    vote_payload,
)
from prunefleet_shared import wire
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity import Credentials
from prunefleet_shared.messages import (
    AwaitDecision,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    FetchModel,
    GetCampaign,
    Invitation,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    Up,
)
from prunefleet_shared.testing import COORDINATOR_KEY as KEY

CAMPAIGN = small_campaign()
SIGNED = sign_document("campaign", CAMPAIGN, KEY)
CHECK_IN = CheckIn(CAMPAIGN.campaign_id, CAMPAIGN.layout.fingerprint(), Readiness.READY)
CONTRIBUTE, CHECK_IN_PATH = "/prunefleet.v1.Fleet/Contribute", "/prunefleet.v1.Fleet/CheckIn"
AUTHORITY = create_authority(datetime.now(UTC))
STRANGERS = create_authority(datetime.now(UTC))
LIMIT_S = 30.0
HONEST = (0, 1, 2)


def credentials(name: str, role: Role = Role.DEVICE) -> Credentials:
    return issue(AUTHORITY, role, name, datetime.now(UTC))


class House:
    """A coordinator behind gRPC; ``attacker`` speaks with the certificate of device 2, as if its machine was taken."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.store.save_blob(BASE_MODEL)
        self.runner = CoordinatorRunner(SIGNED, KEY, self.store, self.store, self.clock, counting_ids(), poll_s=0.0)
        self.port = 0

    @contextlib.asynccontextmanager
    async def link(
        self, name: str, role: Role = Role.DEVICE, own: Credentials | None = None
    ) -> AsyncIterator[GrpcLink]:
        link = GrpcLink(f"127.0.0.1:{self.port}", own or credentials(name, role), timeout_s=LIMIT_S / 2)
        try:
            yield link
        finally:
            await link.close()

    async def refusal(self, message: Up, name: str = "device-2", role: Role = Role.DEVICE) -> RejectReason:
        async with self.link(name, role) as link:
            with pytest.raises(RemoteProtocolError) as caught:
                await link.call(message)
        return caught.value.rejection.reason

    async def raw(self, path: str, data: bytes) -> tuple[grpc.StatusCode, RejectReason | None]:
        own = credentials("device-2")
        tls = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.cert_pem)
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", tls, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(data, timeout=LIMIT_S / 2)
        trailer = dict(caught.value.trailing_metadata() or ()).get(wire.REJECTION_METADATA_KEY)
        return caught.value.code(), None if trailer is None else wire.decode_rejection(trailer).reason

    async def raw_refusal(self, path: str, data: bytes) -> RejectReason | None:
        return (await self.raw(path, data))[1]

    async def invite(self, number: int) -> Invitation:
        async with self.link(f"device-{number}") as link:
            answer = await link.call(CHECK_IN)
        assert isinstance(answer, Invitation), answer
        return answer

    async def contribute(self, number: int, session_id: str) -> None:
        async with self.link(f"device-{number}") as link:
            answer = await link.call(Contribute(session_id, vote_payload(CAMPAIGN, number)))
        assert answer == ContributionCounted(session_id)

    async def honest_round(self) -> None:
        """All three devices take part, whatever went before; the stored sum is theirs and nothing else's."""
        invitations = [await self.invite(number) for number in HONEST]
        assert len({invitation.session_id for invitation in invitations}) == 1
        assert self.runner.progress.num_contributions == 0
        for number, invitation in zip(HONEST, invitations, strict=True):
            await self.contribute(number, invitation.session_id)
        self.check_sum(HONEST)

    def check_sum(self, devices: tuple[int, ...]) -> None:
        closed = self.store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0)
        assert closed is not None
        expected = sum(random_vote(CAMPAIGN, number) for number in devices)
        assert np.array_equal(closed.total.lanes, expected)
        assert closed.total.num_devices == len(devices)
        assert closed.contributors == tuple(f"device-{number}" for number in devices)
        assert self.store.load_document(CAMPAIGN.campaign_id, "decision", 0) is not None


Scenario = Callable[[House], Awaitable[None]]


def play(scenario: Scenario) -> None:
    async def run() -> None:
        house = House()
        server_credentials = issue(AUTHORITY, Role.COORDINATOR, "coordinator", datetime.now(UTC))
        server = await start_server(house.runner, server_credentials, clock=lambda: datetime.now(UTC))
        house.port = server.port
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(house)
        finally:
            await server.stop(0)

    asyncio.run(run())


def refused(attack: Callable[[House, Invitation], Awaitable[RejectReason | None]], reason: RejectReason) -> None:
    """``attack`` meets an open session in which device 2 is invited, and must change nothing."""

    async def scenario(house: House) -> None:
        invitation = await house.invite(2)
        assert await attack(house, invitation) is reason
        assert house.runner.progress.awaited_ids == ("device-2",)
        await house.honest_round()

    play(scenario)


def honest_bytes(invitation: Invitation) -> bytes:
    return wire.encode_up(Contribute(invitation.session_id, vote_payload(CAMPAIGN, 2)))


# --- bytes that are no message ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda honest: b"\xff\xff garbage", RejectReason.MALFORMED),
        (lambda honest: b"", RejectReason.MALFORMED),
        (lambda honest: honest[:-1], RejectReason.MALFORMED),
        (lambda honest: honest[:17], RejectReason.MALFORMED),
        (lambda honest: honest + b"\x7a\x01x", RejectReason.UNKNOWN_FIELD),
        (lambda honest: honest + b"\x9a\x3e\x20" + bytes(32), RejectReason.UNKNOWN_FIELD),
    ],
    ids=["garbage", "empty", "truncated by one", "truncated to the id", "unknown field", "32 bytes in field 995"],
)
def test_bytes_that_are_no_contribution(make: Callable[[bytes], bytes], reason: RejectReason) -> None:
    refused(lambda house, invitation: house.raw_refusal(CONTRIBUTE, make(honest_bytes(invitation))), reason)


def test_an_oversize_check_in() -> None:
    data = wire.encode_up(CHECK_IN) + bytes(1024)
    refused(lambda house, invitation: house.raw_refusal(CHECK_IN_PATH, data), RejectReason.TOO_LARGE)


def test_a_payload_beyond_any_contribution() -> None:
    def attack(house: House, invitation: Invitation) -> Awaitable[RejectReason | None]:
        session_id = bytes.fromhex(invitation.session_id)
        length = 1024**2 + 1
        varint = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
        return house.raw_refusal(CONTRIBUTE, b"\x0a\x10" + session_id + b"\x12" + varint + bytes(length))

    refused(attack, RejectReason.MALFORMED)


def test_more_than_any_message_is_cut_off_by_the_carrier() -> None:
    async def scenario(house: House) -> None:
        await house.invite(2)
        too_large = (grpc.StatusCode.INVALID_ARGUMENT, RejectReason.TOO_LARGE)
        assert await house.raw(CONTRIBUTE, bytes(2 * 1024**2)) == too_large
        assert await house.raw(CONTRIBUTE, bytes(5 * 1024**2)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
        await house.honest_round()

    play(scenario)


# --- messages that break a rule --------------------------------------------------------------------------------------


def contribution(
    payload: bytes, session_id: str | None = None
) -> Callable[[House, Invitation], Awaitable[RejectReason]]:
    return lambda house, invitation: house.refusal(Contribute(session_id or invitation.session_id, payload))


PAYLOAD = vote_payload(CAMPAIGN, 2)


def flipped(bit: int) -> bytes:
    changed = bytearray(PAYLOAD)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    "payload", [PAYLOAD[:-1], PAYLOAD + b"\0", b"\0", PAYLOAD * 2], ids=["short", "long", "one byte", "two votes"]
)
def test_a_vector_of_the_wrong_length(payload: bytes) -> None:
    refused(contribution(payload), RejectReason.WRONG_LENGTH)


@pytest.mark.parametrize(
    "payload",
    [bytes(len(PAYLOAD)), b"\xff" * len(PAYLOAD), flipped(0), flipped(33 * 3), flipped(8 * len(PAYLOAD) - 1)],
    ids=["nothing", "everything", "a grade too many", "a second width", "padding or the last width"],
)
def test_a_vector_outside_the_lane_table(payload: bytes) -> None:
    refused(contribution(payload), RejectReason.OUT_OF_RANGE)


def test_a_session_that_never_was() -> None:
    refused(contribution(PAYLOAD, "ab" * 16), RejectReason.WRONG_SESSION)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (replace(CHECK_IN, campaign_id="ab" * 16), RejectReason.WRONG_CAMPAIGN),
        (GetCampaign("toaster"), RejectReason.WRONG_CAMPAIGN),
        (replace(CHECK_IN, layout_fingerprint=digest(b"another net")), RejectReason.WRONG_LAYOUT),
        (FetchModel(digest(b"no such model"), 0), RejectReason.NOT_FOUND),
    ],
    ids=["wrong campaign", "wrong class", "wrong layout", "no such model"],
)
def test_a_message_about_something_else(message: Up, reason: RejectReason) -> None:
    refused(lambda house, invitation: house.refusal(message), reason)


def test_roles_are_not_mixed() -> None:
    slim_base = PublishSlimBase(SIGNED)
    refused(lambda house, _: house.refusal(slim_base), RejectReason.WRONG_ROLE)
    refused(lambda house, _: house.refusal(AwaitDecision(CAMPAIGN.campaign_id)), RejectReason.WRONG_ROLE)
    refused(
        lambda house, invitation: house.refusal(Contribute(invitation.session_id, PAYLOAD), "device-2", Role.TRAINER),
        RejectReason.WRONG_ROLE,
    )


def test_a_trainer_s_word_out_of_turn() -> None:
    async def scenario(house: House) -> None:
        await house.invite(2)
        reason = await house.refusal(PublishSlimBase(SIGNED), "trainer", Role.TRAINER)
        assert reason in {RejectReason.BAD_SIGNATURE, RejectReason.MALFORMED, RejectReason.WRONG_DECISION}
        assert await house.refusal(AwaitDecision("ab" * 16), "trainer", Role.TRAINER) is RejectReason.WRONG_CAMPAIGN
        await house.honest_round()

    play(scenario)


# --- the wrong device, or the wrong time -----------------------------------------------------------------------------


def test_a_device_that_was_not_invited() -> None:
    async def scenario(house: House) -> None:
        invitation = await house.invite(2)
        reason = await house.refusal(Contribute(invitation.session_id, vote_payload(CAMPAIGN, 9)), "device-9")
        assert reason is RejectReason.NOT_INVITED
        await house.honest_round()

    play(scenario)


def test_a_cohort_that_is_full() -> None:
    async def scenario(house: House) -> None:
        everyone = range(CAMPAIGN.cohort.max_invited)
        (session_id,) = {(await house.invite(number)).session_id for number in everyone}
        async with house.link("device-9") as link:
            assert isinstance(await link.call(CHECK_IN), ComeBack)
        assert await house.refusal(Contribute(session_id, PAYLOAD), "device-9") is RejectReason.NOT_INVITED
        await house.honest_round()

    play(scenario)


def test_a_device_that_says_it_twice_counts_once() -> None:
    async def scenario(house: House) -> None:
        (session_id,) = {(await house.invite(number)).session_id for number in HONEST}
        await house.contribute(2, session_id)
        for payload in (PAYLOAD, vote_payload(CAMPAIGN, 77), b"\xff"):
            assert await house.refusal(Contribute(session_id, payload)) is RejectReason.DUPLICATE
        await house.contribute(0, session_id)
        await house.contribute(1, session_id)
        assert await house.refusal(Contribute(session_id, PAYLOAD)) is RejectReason.DUPLICATE, "after the closing too"
        house.check_sum(HONEST)

    play(scenario)


def test_a_device_that_comes_after_the_closing_is_late() -> None:
    async def scenario(house: House) -> None:
        (session_id,) = {(await house.invite(number)).session_id for number in HONEST}
        await house.contribute(0, session_id)
        await house.contribute(1, session_id)
        house.clock.now_s += CAMPAIGN.cohort.deadline_ms / 1000
        assert await house.refusal(Contribute(session_id, PAYLOAD)) is RejectReason.LATE
        house.check_sum((0, 1))

    play(scenario)


def test_a_contribution_to_an_abandoned_attempt_is_late_and_forgotten() -> None:
    async def scenario(house: House) -> None:
        invitation = await house.invite(2)
        await house.contribute(2, invitation.session_id)
        house.clock.now_s += CAMPAIGN.cohort.deadline_ms / 1000
        assert await house.refusal(Contribute(invitation.session_id, PAYLOAD), "device-0") is RejectReason.LATE
        again = await house.invite(2)
        assert again.attempt == 2
        assert again.session_id != invitation.session_id
        await house.honest_round()

    play(scenario)


def test_a_stranger_does_not_get_in() -> None:
    async def scenario(house: House) -> None:
        invitation = await house.invite(2)
        foreign = issue(STRANGERS, Role.DEVICE, "device-2", datetime.now(UTC))
        async with house.link("", own=replace(foreign, ca_pem=AUTHORITY.cert_pem)) as link:
            with pytest.raises(CarrierError) as caught:
                await link.call(Contribute(invitation.session_id, PAYLOAD))
        assert not isinstance(caught.value, RemoteProtocolError)
        assert house.runner.progress.num_contributions == 0
        await house.honest_round()

    play(scenario)


# --- all at once -----------------------------------------------------------------------------------------------------


def test_a_thousand_broken_messages_leave_no_trace() -> None:
    """Mutations of an honest contribution by an invited device, on one connection: none is counted, none is fatal."""
    rng = random.Random(5)

    def mutated(honest: bytes) -> bytes:
        data = bytearray(honest)
        for _ in range(rng.randint(1, 3)):
            match rng.randrange(3):
                case 0:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                case 1:
                    del data[rng.randrange(len(data)) :]
                case _:
                    data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
            if not data:
                break
        return bytes(data)

    async def scenario(house: House) -> None:
        honest = honest_bytes(await house.invite(2))
        own = credentials("device-2")
        tls = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.cert_pem)
        reasons = set()
        async with grpc.aio.secure_channel(f"127.0.0.1:{house.port}", tls) as channel:
            call = channel.unary_unary(CONTRIBUTE)
            for data in (mutated(honest) for _ in range(1000)):
                if data == honest:
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(data, timeout=LIMIT_S / 2)
                trailer = dict(caught.value.trailing_metadata() or ())[wire.REJECTION_METADATA_KEY]
                reasons.add(wire.decode_rejection(trailer).reason)
        assert house.runner.progress.num_contributions == 0
        assert {RejectReason.MALFORMED, RejectReason.WRONG_SESSION, RejectReason.OUT_OF_RANGE} <= reasons
        assert RejectReason.DUPLICATE not in reasons, "nothing was counted, so nothing can come twice"
        await house.honest_round()

    play(scenario)
