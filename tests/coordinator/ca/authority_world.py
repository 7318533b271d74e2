"""An authority to play with: its rules alone, at a time that tests choose, or the whole of it on real ports."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

from prunefleet_coordinator.ca.authority_service import AuthorityService
from prunefleet_coordinator.ca.files import AuthoritySettings, init_authority, load_settings
from prunefleet_coordinator.ca.rate_limit import FailureLimit
from prunefleet_coordinator.ca.server import DATABASE, serve_authority
from prunefleet_coordinator.ca.signer import FolderSigner
from prunefleet_coordinator.ca.store import AuthorityStore
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_shared.authority_messages import CreateTokens, Join, ListDenied, ListMembers, Renew, Revoke
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.identity import create_request, create_signing_key
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.messages import Peer, Role

LIMIT_S = 30.0
NEWCOMER = Peer("ipv4:192.0.2.7", Role.NEWCOMER)
OPERATOR = Peer("operator", Role.OPERATOR)
COORDINATOR = Peer("coordinator", Role.COORDINATOR)


def make_state(folder, **settings):
    """A state folder with an authority on loopback."""
    chosen = {"hosts": ("localhost",), "coordinator_address": "coordinator.example:8470"} | settings
    init_authority(folder, folder / "root", AuthoritySettings(**chosen), datetime.now(UTC))
    return folder


def reason_of(attempt):
    """The reason for which ``attempt()`` is turned down, by name."""
    try:
        attempt()
    except RemoteProtocolError as error:
        return error.rejection.reason.name
    return None


class Core:
    """The rules over a real store; nobody waits and nothing listens."""

    def __init__(self, state):
        self.state = state
        self.now = datetime.now(UTC)
        self.seconds = 0.0
        self.open()

    def open(self):
        settings = load_settings(self.state)
        self.store = AuthorityStore(self.state / DATABASE)
        self.service = AuthorityService(
            self.store,
            FolderSigner(self.state, settings.validity_h),
            settings,
            now=lambda: self.now,
            failures=FailureLimit(lambda: self.seconds),
        )

    def restart(self):
        self.store.close()
        self.open()

    def ask(self, message, peer=NEWCOMER):
        return asyncio.run(self.service.handle(peer, message))

    def token(self, role=Role.DEVICE, name="device-01", **order):
        (text,) = self.service.create_tokens(TokenOrder(role, name, **order))
        return JoinToken.parse(text)

    def join(self, token, key=None, peer=NEWCOMER, secret=None, request=None):
        request = request or create_request(key or create_signing_key())
        return self.ask(Join(token.token_id, secret or token.secret, request), peer)

    def renew(self, name, role=Role.DEVICE, key=None):
        return self.ask(Renew(create_request(key or create_signing_key())), Peer(name, role))

    def revoke(self, name):
        return self.ask(Revoke(name), OPERATOR)

    def denied(self):
        return self.ask(ListDenied(), COORDINATOR).serials

    def members(self, role=None, after_name=""):
        return self.ask(ListMembers(role, after_name), OPERATOR).members

    def order(self, role=Role.DEVICE, name="shed", *, is_group=True, count=1, valid_for_s=60, device_class=""):
        return self.ask(CreateTokens(role, name, is_group, count, valid_for_s, device_class), OPERATOR).tokens

    def later(self, **delta):
        self.now += timedelta(**delta)


class Running:
    """An authority on real ports, with a clock that tests may turn."""

    def __init__(self, state):
        self.state = state
        self.ahead = timedelta()
        self.authority = None

    def now(self):
        return datetime.now(UTC) + self.ahead

    async def start(self, join_port=0, members_port=0):
        self.authority = await serve_authority(
            self.state,
            join_host="127.0.0.1",
            join_port=join_port,
            members_host="127.0.0.1",
            members_port=members_port,
            now=self.now,
        )

    def token(self, role=Role.DEVICE, name="device-01", **order):
        (text,) = self.authority.create_tokens(TokenOrder(role, name, **order))
        return JoinToken.parse(text)


def running(state, scenario):
    """Run ``scenario(world)`` against an authority that listens."""

    async def run():
        world = Running(state)
        await world.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(world)
        finally:
            with contextlib.suppress(AttributeError):
                await world.authority.stop()

    asyncio.run(run())
