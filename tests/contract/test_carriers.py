"""What a device may rely on, whatever carries its messages: one class of tests, run over every carrier."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared import wire
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.memory_carrier import MemoryLink
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    Ending,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    Peer,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    Stored,
    UploadModel,
)
from prunefleet_shared.meter import Direction, Meter, Traffic
from prunefleet_shared.sum_messages import (
    Advertise,
    CertificateList,
    Confirmations,
    ConfirmSurvivors,
    FetchCertificates,
    PeerShares,
    Roster,
    RosterEntry,
    ShareKeys,
    Survivors,
    Unmask,
)

ID, DIGEST = "0123456789abcdef" * 2, "cd" * 32
DOCUMENT = SignedDocument("decision", b'{"level":0}', bytes(70), bytes(91))
CHECK_IN = CheckIn(ID, DIGEST, Readiness.READY)
LIMIT_S = 30.0
ENTRY = RosterEntry(b"d" * 32, b"k" * 32, b"l" * 32, b"s" * 64)
ADVERTISE = Advertise(ID, (b"leaf",), ENTRY, b"m" * 32)


class Script:
    """A service that gives, for each request, what the test said; remembers who asked what."""

    def __init__(self, reply):
        self.reply = reply
        self.seen = []

    async def handle(self, peer, message):
        self.seen.append((peer, message))
        answer = self.reply(peer, message)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def bounded(scenario):
    async def run():
        async with asyncio.timeout(LIMIT_S):
            await scenario

    asyncio.run(run())


class CarrierContract:
    """Subclasses give ``links(service, *peers, meter)``: an async context manager of one link per peer."""

    EXCHANGES = (
        (Role.DEVICE, GetCampaign("pi-4"), CampaignOffer(DOCUMENT)),
        (Role.DEVICE, CHECK_IN, Invitation(ID, SessionKind.VOTE, 0, 1, 1000)),
        (Role.DEVICE, CHECK_IN, Invitation(ID, SessionKind.OUTCOME, 2, 3, 1000, DOCUMENT, DOCUMENT)),
        (Role.DEVICE, CHECK_IN, ComeBack(500, Awaited.DEVICES)),
        (Role.DEVICE, CHECK_IN, CampaignEnded(Ending.FAILED)),
        (Role.DEVICE, Contribute(ID, b"\x00\xff"), ContributionCounted(ID)),
        (Role.DEVICE, ADVERTISE, Roster((ENTRY, ENTRY))),
        (Role.DEVICE, ADVERTISE, ComeBack(500, Awaited.DEVICES)),
        (Role.DEVICE, FetchCertificates(ID, (b"d" * 32,)), CertificateList((b"leaf",), (b"intermediate",))),
        (Role.DEVICE, ShareKeys(ID, bytes(160), b"s" * 64), PeerShares(b"\x07", bytes(160), bytes(192))),
        (Role.DEVICE, Contribute(ID, b"\x00\xff"), Survivors(b"\x07")),
        (Role.DEVICE, ConfirmSurvivors(ID, b"s" * 64), Confirmations(b"\x05", bytes(128))),
        (Role.DEVICE, Unmask(ID, b"\x05", bytes(64)), ContributionCounted(ID)),
        (Role.DEVICE, FetchModel(DIGEST, 4), ModelChunk(8, b"half")),
        (Role.TRAINER, AwaitDecision(ID), DecisionOffer(DOCUMENT, DOCUMENT)),
        (Role.TRAINER, AwaitDecision(ID), ComeBack(500, Awaited.TRAINER)),
        (Role.TRAINER, AwaitDecision(ID), CampaignEnded(Ending.COMPLETED)),
        (Role.TRAINER, UploadModel(DIGEST, 0, 4, b"slim"), Stored()),
        (Role.TRAINER, PublishSlimBase(DOCUMENT), Stored()),
    )

    def test_every_request_gets_its_answer_and_the_service_knows_who_asked(self):
        async def scenario():
            peers = {role: Peer(f"{role.value}-03", role) for role in Role}
            for role, request, answer in self.EXCHANGES:
                service = Script(lambda peer, message, answer=answer: answer)
                async with self.links(service, peers[role]) as (link,):
                    assert await link.call(request) == answer
                assert service.seen == [(peers[role], request)]

        bounded(scenario())

    def test_a_rejection_arrives_with_all_its_fields(self):
        async def scenario():
            rejections = [Rejection(reason, "expected", "gót", "remedy") for reason in RejectReason]
            waiting = iter(rejections)
            service = Script(lambda peer, message: RemoteProtocolError(next(waiting)))
            async with self.links(service, Peer("d", Role.DEVICE)) as (link,):
                for rejection in rejections:
                    with pytest.raises(RemoteProtocolError) as caught:
                        await link.call(CHECK_IN)
                    assert caught.value.rejection == rejection

        bounded(scenario())

    def test_the_largest_pieces_pass(self):
        async def scenario():
            piece = bytes(range(256)) * (wire.CHUNK_BYTES // 256)
            service = Script(lambda peer, message: ModelChunk(len(piece), piece))
            async with self.links(service, Peer("d", Role.DEVICE)) as (link,):
                assert await link.call(FetchModel(DIGEST, 0)) == ModelChunk(len(piece), piece)
            contribution = Contribute(ID, piece * 4)
            service = Script(lambda peer, message: ContributionCounted(ID))
            async with self.links(service, Peer("d", Role.DEVICE)) as (link,):
                await link.call(contribution)
            assert service.seen[0][1] == contribution

        bounded(scenario())

    def test_calls_at_the_same_time_do_not_wait_for_each_other(self):
        async def scenario():
            everyone_is_in = asyncio.Barrier(12)

            async def reply(peer, message):
                await everyone_is_in.wait()  # no call is answered before all have arrived
                return ContributionCounted(message.session_id)

            peers = [Peer(f"device-{i:02d}", Role.DEVICE) for i in range(6)]
            service = Script(reply)
            async with self.links(service, *peers) as links:
                wanted = [(link, f"{i:032x}") for i, link in enumerate((*links, *links))]
                answers = await asyncio.gather(*(link.call(Contribute(own_id, b"x")) for link, own_id in wanted))
            assert answers == [ContributionCounted(own_id) for _, own_id in wanted]
            assert sorted(peer.peer_id for peer, _ in service.seen) == sorted(2 * [peer.peer_id for peer in peers])

        bounded(scenario())

    @pytest.mark.parametrize(("role", "message"), [(Role.TRAINER, CHECK_IN), (Role.DEVICE, PublishSlimBase(DOCUMENT))])
    def test_the_wrong_role_is_refused_before_the_service_hears_of_it(self, role, message):
        async def scenario():
            service = Script(lambda peer, message: Stored())
            async with self.links(service, Peer("x", role)) as (link,):
                with pytest.raises(RemoteProtocolError) as caught:
                    await link.call(message)
            assert caught.value.rejection.reason is RejectReason.WRONG_ROLE
            assert service.seen == []

        bounded(scenario())

    @pytest.mark.parametrize("message", [Stored(), GetCampaign("No such class!"), Contribute("id", b"x")])
    def test_what_is_no_message_never_leaves(self, message):
        async def scenario():
            service, meter = Script(lambda peer, message: Stored()), Meter()
            async with self.links(service, Peer("d", Role.DEVICE), meter=meter) as (link,):
                with pytest.raises(LocalProtocolError):
                    await link.call(message)
            assert (service.seen, meter.traffic()) == ([], Traffic(0, 0, 0, 0))

        bounded(scenario())

    def test_the_meter_hears_every_byte(self):
        async def scenario():
            recorded = []
            meter = Meter(record=lambda *heard: recorded.append(heard))
            refusal = Rejection(RejectReason.LATE, "before the deadline", "after it", "check in again")
            answers = {
                CheckIn: ComeBack(500, Awaited.DEVICES),
                FetchModel: ModelChunk(4, b"base"),
                Contribute: RemoteProtocolError(refusal),
            }
            service = Script(lambda peer, message: answers[type(message)])
            sent = [CHECK_IN, FetchModel(DIGEST, 0), Contribute(ID, b"xyz")]
            async with self.links(service, Peer("device-03", Role.DEVICE), meter=meter) as (link,):
                for message in sent:
                    with contextlib.suppress(RemoteProtocolError):
                        await link.call(message)
            up = [wire.encode_up(message) for message in sent]
            paths = [wire.method_of(message).path for message in sent]
            down = [
                wire.encode_down(paths[0], answers[CheckIn]),
                wire.encode_down(paths[1], answers[FetchModel]),
                wire.encode_rejection(refusal),
            ]
            assert recorded == [
                ("device-03", path, direction, data)
                for path, *both in zip(paths, up, down, strict=True)
                for direction, data in zip(Direction, both, strict=True)
            ]
            total = Traffic(sum(map(len, up)), len(down[0]) + len(down[2]), len(down[1]), 3)
            assert meter.traffic() == meter.traffic("device-03") == total
            assert meter.traffic(method=paths[0]) == Traffic(len(up[0]), len(down[0]), 0, 1)
            assert (meter.peers(), meter.methods("device-03")) == (("device-03",), tuple(sorted(paths)))

        bounded(scenario())


class TestMemoryCarrier(CarrierContract):
    @contextlib.asynccontextmanager
    async def links(self, service, *peers, meter=None):
        yield [MemoryLink(service, peer, meter) for peer in peers]


class TestGrpcCarrier(CarrierContract):
    @contextlib.asynccontextmanager
    async def links(self, service, *peers, meter=None):
        def now():
            return datetime.now(UTC)

        authority = create_authority(now())
        server = await start_server(service, issue(authority, Role.COORDINATOR, "coordinator", now()), clock=now)
        credentials = [issue(authority, peer.role, peer.peer_id, now()) for peer in peers]
        address = f"127.0.0.1:{server.port}"
        links = [GrpcLink(address, own, timeout_s=LIMIT_S / 2, meter=meter) for own in credentials]
        try:
            yield links
        finally:
            await asyncio.gather(*(link.close() for link in links))
            await server.stop(0)
