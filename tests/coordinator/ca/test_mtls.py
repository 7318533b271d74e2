"""Who may speak on which port, with what certificate; also when it ends or is revoked while the line is open."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from authority_world import LIMIT_S, running

from prunefleet_coordinator.ca.files import load_intermediate
from prunefleet_coordinator.ca.server import DATABASE
from prunefleet_coordinator.ca.store import AuthorityStore
from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared.authority_messages import CreateTokens, GetAuthority, ListDenied, ListMembers, Renew, Revoke
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.enrolment import join
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink, Trust
from prunefleet_shared.identity import create_request, create_signing_key
from prunefleet_shared.messages import AwaitDecision, Awaited, ComeBack, Contribute, ContributionCounted, Role

ID = "ab" * 16


def now():
    return datetime.now(UTC)


async def member(world, folder, role=Role.DEVICE, name=""):
    return await join(world.token(role, name or f"{role}-01"), role, folder / (name or role), now=now)


@contextlib.asynccontextmanager
async def line(port, credentials, timeout_s=10.0):
    link = GrpcLink(f"localhost:{port}", credentials, timeout_s=timeout_s)
    try:
        yield link
    finally:
        await link.close()


async def reason(link, message):
    with pytest.raises(RemoteProtocolError) as caught:
        await link.call(message)
    return caught.value.rejection.reason


def request():
    return Renew(create_request(create_signing_key()))


# --- the handshake


def without_certificate(identity, state):
    return Trust(identity.credentials.ca_pem)


def of_another_root(identity, state):
    foreign = issue(create_authority(now()), Role.DEVICE, "device-01", now())
    return replace(foreign, ca_pem=identity.credentials.ca_pem)


def expired(identity, state):
    old = issue(load_intermediate(state), Role.DEVICE, "device-01", now() - timedelta(hours=3), validity_h=1)
    return chained(old, identity, state)


def not_valid_yet(identity, state):
    return chained(
        issue(load_intermediate(state), Role.DEVICE, "device-01", now() + timedelta(days=1)), identity, state
    )


def without_intermediate(identity, state):
    leaf = identity.credentials.cert_pem.split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
    return replace(identity.credentials, cert_pem=leaf)


def signed_by_a_device(identity, state):
    """A device plays authority and makes itself an operator."""
    chain = identity.credentials.cert_pem
    operator = issue(Authority(chain, identity.credentials.key_pem), Role.OPERATOR, "operator", now())
    return replace(operator, cert_pem=operator.cert_pem + chain, ca_pem=identity.credentials.ca_pem)


def chained(credentials, identity, state):
    chain = credentials.cert_pem + load_intermediate(state).cert_pem
    return replace(credentials, cert_pem=chain, ca_pem=identity.credentials.ca_pem)


@pytest.mark.parametrize(
    "make",
    [without_certificate, of_another_root, expired, not_valid_yet, without_intermediate, signed_by_a_device],
    ids=lambda make: make.__name__,
)
def test_the_handshake_turns_away(state, tmp_path, make):
    async def scenario(world):
        identity = await member(world, tmp_path)
        async with line(world.authority.members_port, make(identity, state)) as link:
            with pytest.raises(CarrierError):
                await link.call(request())
        async with line(world.authority.members_port, identity.credentials) as link:
            await link.call(request())

    running(state, scenario)


def test_a_chain_through_the_intermediate_is_accepted_on_both_sides(state, tmp_path):
    async def scenario(world):
        identity = await member(world, tmp_path)
        assert identity.credentials.cert_pem.count(b"BEGIN CERTIFICATE") == 2
        async with line(world.authority.members_port, identity.credentials) as link:
            membership = await link.call(request())
        assert len(membership.certificates) == 2

    running(state, scenario)


# --- roles and ports


@pytest.mark.parametrize("role", [Role.DEVICE, Role.TRAINER, Role.OPERATOR, Role.COORDINATOR])
def test_each_role_may_make_its_own_calls_only(state, tmp_path, role):
    allowed = {
        ListDenied(): {Role.COORDINATOR},
        Revoke("nobody"): {Role.OPERATOR},
        CreateTokens(Role.DEVICE, "shed", True, 1, 60, ""): {Role.OPERATOR},
        ListMembers(None, ""): {Role.OPERATOR},
    }

    async def scenario(world):
        identity = await member(world, tmp_path, role)
        async with line(world.authority.members_port, identity.credentials) as link:
            for message, roles in allowed.items():
                if role in roles:
                    with contextlib.suppress(RemoteProtocolError):
                        await link.call(message)
                else:
                    assert await reason(link, message) is RejectReason.WRONG_ROLE

    running(state, scenario)


def test_newcomers_and_members_have_a_port_each(state, tmp_path):
    async def scenario(world):
        identity = await member(world, tmp_path, Role.OPERATOR)
        for port, message in (
            (world.authority.members_port, GetAuthority()),
            (world.authority.join_port, Revoke("device-01")),
            (world.authority.join_port, request()),
        ):
            async with line(port, identity.credentials) as link:
                with pytest.raises(CarrierError, match="UNIMPLEMENTED"):
                    await link.call(message)

    running(state, scenario)


def test_no_certificate_names_a_newcomer(state, tmp_path):
    """The role of those without a certificate cannot be had by one."""

    async def scenario(world):
        identity = await member(world, tmp_path)
        fake = chained(issue(load_intermediate(state), Role.NEWCOMER, "n", now()), identity, state)
        async with line(world.authority.members_port, fake) as link:
            assert await reason(link, request()) is RejectReason.STRANGER

    running(state, scenario)


# --- on a line that is open


def test_a_revoked_member_is_turned_away_on_its_open_line_and_on_a_new_one(state, tmp_path):
    async def scenario(world):
        operator, device = await member(world, tmp_path, Role.OPERATOR), await member(world, tmp_path)
        port = world.authority.members_port
        async with line(port, device.credentials) as link, line(port, operator.credentials) as ruler:
            await link.call(request())
            await ruler.call(Revoke(device.name))
            assert await reason(link, request()) is RejectReason.REVOKED
            async with line(port, device.credentials) as fresh:
                assert await reason(fresh, request()) is RejectReason.REVOKED
            await ruler.call(ListMembers(None, ""))

    running(state, scenario)


def test_the_old_certificate_stays_denied_when_the_name_is_let_in_again(state, tmp_path):
    """By its name alone it could be renewed: the serial number is what is denied."""

    async def scenario(world):
        old = await member(world, tmp_path)
        world.authority._service.revoke(old.name)
        new = await join(world.token(name=old.name), Role.DEVICE, tmp_path / "again", now=now)
        async with line(world.authority.members_port, old.credentials) as link:
            assert await reason(link, request()) is RejectReason.REVOKED
        async with line(world.authority.members_port, new.credentials) as link:
            await link.call(request())

    running(state, scenario)


def test_a_revoked_operator_rules_no_longer(state, tmp_path):
    async def scenario(world):
        operator = await member(world, tmp_path, Role.OPERATOR)
        async with line(world.authority.members_port, operator.credentials) as link:
            await link.call(ListMembers(None, ""))
            world.authority._service.revoke(operator.name)
            for message in (ListMembers(None, ""), CreateTokens(Role.DEVICE, "shed", True, 1, 60, "")):
                assert await reason(link, message) is RejectReason.REVOKED

    running(state, scenario)


def test_a_member_revoked_on_the_command_line_is_turned_away_at_once(state, tmp_path):
    async def scenario(world):
        device = await member(world, tmp_path)
        async with line(world.authority.members_port, device.credentials) as link:
            await link.call(request())
            command = AuthorityStore(state / DATABASE)
            command.revoke(device.name, 1)
            command.close()
            assert await reason(link, request()) is RejectReason.REVOKED

    running(state, scenario)


def test_a_certificate_that_ends_is_turned_away_on_its_open_line(state, tmp_path):
    async def scenario(world):
        device = await member(world, tmp_path)
        async with line(world.authority.members_port, device.credentials) as link:
            await link.call(request())
            world.ahead = timedelta(days=8)
            assert await reason(link, request()) is RejectReason.STRANGER

    running(state, scenario)


# --- the coordinator's port, with its long polls


class LongPoll:
    """A service that answers a trainer when it is told to; devices at once."""

    def __init__(self):
        self.is_waiting, self.may_answer = asyncio.Event(), asyncio.Event()

    async def handle(self, peer, message):
        if isinstance(message, Contribute):
            return ContributionCounted(message.session_id)
        self.is_waiting.set()
        await self.may_answer.wait()
        return ComeBack(1000, Awaited.DEVICES)


@pytest.mark.parametrize("happens", ["nothing", "revoked", "expired"])
def test_what_happens_during_a_long_poll_counts_when_it_is_answered(state, tmp_path, happens):
    async def scenario(world):
        coordinator = await member(world, tmp_path, Role.COORDINATOR)
        trainer = await member(world, tmp_path, Role.TRAINER)
        service, denied = LongPoll(), set()
        server = await start_server(
            service, coordinator.credentials, clock=world.now, is_denied=lambda serial: bool(denied)
        )
        async with line(server.port, trainer.credentials) as link:
            call = asyncio.create_task(link.call(AwaitDecision(ID)))
            await service.is_waiting.wait()
            if happens == "revoked":
                denied.add("all")
            if happens == "expired":
                world.ahead = timedelta(days=8)
            service.may_answer.set()
            if happens == "nothing":
                assert await call == ComeBack(1000, Awaited.DEVICES)
            else:
                with pytest.raises(RemoteProtocolError) as caught:
                    await call
                expected = RejectReason.REVOKED if happens == "revoked" else RejectReason.STRANGER
                assert caught.value.rejection.reason is expected
        await server.stop(0)

    running(state, scenario)


def test_a_coordinator_denies_by_serial_number_and_nobody_else(state, tmp_path):
    async def scenario(world):
        coordinator = await member(world, tmp_path, Role.COORDINATOR)
        bad, good = await member(world, tmp_path, name="bad"), await member(world, tmp_path, name="good")
        world.authority._service.revoke("bad")
        async with line(world.authority.members_port, coordinator.credentials) as link:
            denied = set((await link.call(ListDenied())).serials)
        server = await start_server(
            LongPoll(), coordinator.credentials, clock=now, is_denied=lambda serial: serial in denied
        )
        async with line(server.port, bad.credentials) as link:
            assert await reason(link, Contribute(ID, b"x")) is RejectReason.REVOKED
        async with line(server.port, good.credentials) as link:
            assert await link.call(Contribute(ID, b"x")) == ContributionCounted(ID)
        await server.stop(0)

    running(state, scenario)


def test_the_root_is_not_asked_of_newcomers(state):
    """A client certificate on the port for newcomers is neither needed nor looked at."""

    async def scenario(world):
        async with grpc.aio.secure_channel(
            f"localhost:{world.authority.join_port}",
            grpc.ssl_channel_credentials((state / "root.pem").read_bytes()),
        ) as channel:
            answer = await channel.unary_unary("/prunefleet.v1.Enrolment/GetAuthority")(b"", timeout=LIMIT_S)
        assert answer

    running(state, scenario)
