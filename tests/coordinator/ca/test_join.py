"""Joining over real TLS: what is checked before the secret leaves, and what happens when the power goes in between."""

import asyncio
import contextlib
import json
import socket
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from authority_world import Running, make_state, running
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from prunefleet_coordinator.ca.files import load_intermediate, load_root
from prunefleet_coordinator.grpc_carrier import start_join_server
from prunefleet_shared import enrolment
from prunefleet_shared.authority_messages import AuthorityOffer, GetAuthority, Membership
from prunefleet_shared.certificates import create_authority, issue, sign_leaf
from prunefleet_shared.enrolment import NEW_KEY_FILE, join, renew
from prunefleet_shared.errors import CarrierError, ConfigError, RemoteProtocolError
from prunefleet_shared.identity import create_signing_key, read_request
from prunefleet_shared.identity_folder import IDENTITY_FILE, load_identity
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.messages import Role


def real_now():
    return datetime.now(UTC)


async def enter(token, folder, role=Role.DEVICE, now=real_now):
    return await join(token, role, folder, now=now, timeout_s=10.0)


def test_a_newcomer_becomes_a_member(state, tmp_path):
    async def scenario(world):
        token = world.token(device_class="camera")
        identity = await enter(token, tmp_path / "d")
        assert (identity.role, identity.name, identity.device_class) == (Role.DEVICE, "device-01", "camera")
        assert identity.authority_address == f"localhost:{world.authority.members_port}"
        assert identity == load_identity(tmp_path / "d", Role.DEVICE)
        assert [path.name for path in (tmp_path / "d").iterdir()] == [IDENTITY_FILE], "the new key is in it now"
        assert stat.S_IMODE((tmp_path / "d" / IDENTITY_FILE).stat().st_mode) == 0o600
        renewed = await renew(identity, tmp_path / "d", now=real_now)
        assert renewed.public_key != identity.public_key
        assert renewed == load_identity(tmp_path / "d", Role.DEVICE)

    running(state, scenario)


@pytest.mark.parametrize("role", [Role.TRAINER, Role.OPERATOR, Role.COORDINATOR])
def test_who_signs_documents_keeps_the_key_for_life(state, tmp_path, role):
    async def scenario(world):
        identity = await enter(world.token(role, "alpha"), tmp_path / "m", role)
        renewed = await renew(identity, tmp_path / "m", now=real_now)
        again = await enter(world.token(role, "alpha"), tmp_path / "m", role)
        assert identity.public_key == renewed.public_key == again.public_key

    running(state, scenario)


# --- before the secret leaves


class Relay:
    """A man in the middle: ends TLS with a certificate of his own, writes down every byte, and passes it on."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.heard = b""
        self.tasks = set()
        self.writers = []

    async def _connected(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        self.writers.append(writer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.target_port, ssl=context)
        self.writers.append(onward_writer)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pump(reader, onward_writer, listens=True), self._pump(onward_reader, writer, listens=False)
            )

    async def _pump(self, reader, writer, listens):
        while piece := await reader.read(65536):
            self.heard += piece if listens else b""
            writer.write(piece)
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, folder):
        own = issue(create_authority(real_now()), Role.AUTHORITY, "authority", real_now())
        (folder / "relay.pem").write_bytes(own.cert_pem + own.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "relay.pem")
        context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for writer in self.writers:
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


def test_a_man_in_the_middle_hears_the_question_and_never_the_secret(state, tmp_path):
    """He passes on the true root, so that its hash agrees; what he lacks is a certificate of that root."""

    async def scenario(world):
        token, relay = world.token(), Relay(world.authority.join_port)
        async with relay.listening(tmp_path) as port:
            with pytest.raises(CarrierError):
                await enter(replace(token, address=f"localhost:{port}"), tmp_path / "d")
        assert relay.heard.startswith(b"PRI * HTTP/2.0"), "he does hear what is said"
        assert token.secret not in relay.heard
        assert not (tmp_path / "d" / IDENTITY_FILE).exists()
        await enter(token, tmp_path / "d")

    running(state, scenario)


class Recorder:
    """An authority that writes down what it is asked, and offers a root."""

    def __init__(self, root_pem, answer=None):
        self.root_der = ssl.PEM_cert_to_DER_cert(root_pem.decode())
        self.answer = answer
        self.asked = []

    async def handle(self, peer, message):
        self.asked.append(message)
        if isinstance(message, GetAuthority):
            return AuthorityOffer(self.root_der, round(real_now().timestamp() * 1000))
        return self.answer(message)


def test_another_authority_hears_the_question_and_never_the_secret(state, tmp_path):
    async def scenario(world):
        other = create_authority(real_now())
        recorder = Recorder(other.cert_pem)
        server = await start_join_server(
            recorder, issue(other, Role.AUTHORITY, "authority", real_now()), host="127.0.0.1"
        )
        token = world.token()
        with pytest.raises(RemoteProtocolError, match="nothing secret was sent"):
            await enter(replace(token, address=f"localhost:{server.port}"), tmp_path / "d")
        assert recorder.asked == [GetAuthority()]
        assert not (tmp_path / "d").exists()
        await server.stop(0)
        await enter(token, tmp_path / "d")

    running(state, scenario)


@pytest.mark.parametrize("off", [timedelta(days=1), timedelta(days=-1), timedelta(minutes=6), timedelta(minutes=-6)])
def test_a_clock_that_is_off_is_named_before_the_secret_leaves(state, tmp_path, off):
    async def scenario(world):
        token = world.token()
        with pytest.raises(ConfigError, match=r"clock.*nothing secret was sent"):
            await enter(token, tmp_path / "d", now=lambda: real_now() + off)
        assert not (tmp_path / "d").exists()
        await enter(token, tmp_path / "d", now=lambda: real_now() + timedelta(minutes=4))

    running(state, scenario)


@pytest.mark.parametrize("off", [timedelta(days=2), timedelta(days=-2)])
def test_a_clock_that_is_off_by_days_does_not_end_in_the_words_of_tls(tmp_path, off):
    """Here the authority is ahead or behind, so that TLS itself, which looks at the system's clock, would refuse."""
    state = make_state(tmp_path / "ca")

    async def scenario():
        world = Running(state)
        world.ahead = off
        await world.start()
        with pytest.raises(ConfigError, match=r"clock.*nothing secret was sent"):
            await enter(world.token(), tmp_path / "d")
        await world.authority.stop()

    asyncio.run(scenario())


# --- the answer is not believed blindly


def lying(state, change):
    """An authority of the right root that answers with another certificate."""
    intermediate = load_intermediate(state)
    return Recorder(load_root(state), lambda message: change(message, intermediate))


@pytest.mark.parametrize("lie", ["role", "key", "chain"])
def test_a_certificate_that_is_not_ours_is_not_kept(state, tmp_path, lie):
    def answer(message, intermediate):
        key = create_signing_key().public_key() if lie == "key" else read_request(message.certificate_request)
        signer = create_authority(real_now()) if lie == "chain" else intermediate
        role = Role.TRAINER if lie == "role" else Role.DEVICE
        leaf = x509.load_pem_x509_certificate(sign_leaf(signer, role, "device-01", key, real_now()))
        pem = x509.load_pem_x509_certificate(intermediate.cert_pem)
        ders = tuple(c.public_bytes(serialization.Encoding.DER) for c in (leaf, pem))
        return Membership(ders, (), "localhost:1", "localhost:2", "")

    async def scenario(world):
        intermediate = load_intermediate(state)
        own = issue(intermediate, Role.AUTHORITY, "authority", real_now())
        own = replace(own, cert_pem=own.cert_pem + intermediate.cert_pem)
        server = await start_join_server(lying(state, answer), own, host="127.0.0.1")
        with pytest.raises(RemoteProtocolError, match="STRANGER"):
            await enter(replace(world.token(), address=f"localhost:{server.port}"), tmp_path / "d")
        assert not (tmp_path / "d" / IDENTITY_FILE).exists()
        await server.stop(0)

    running(state, scenario)


def test_a_token_for_another_role_makes_no_member(state, tmp_path):
    async def scenario(world):
        with pytest.raises(RemoteProtocolError, match="check that the token is for this role"):
            await enter(world.token(Role.TRAINER, "t"), tmp_path / "d")
        assert not (tmp_path / "d" / IDENTITY_FILE).exists()

    running(state, scenario)


# --- the power goes


def test_killed_between_the_answer_and_the_disk_it_joins_again_with_the_same_token(state, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    async def scenario(world):
        token = world.token(name="shed", is_group=True)
        with monkeypatch.context() as patch:
            patch.setattr(enrolment, "save_identity", killed)
            with pytest.raises(KeyboardInterrupt):
                await enter(token, tmp_path / "d")
        assert stat.S_IMODE((tmp_path / "d" / NEW_KEY_FILE).stat().st_mode) == 0o600
        key = (tmp_path / "d" / NEW_KEY_FILE).read_bytes()
        identity = await enter(token, tmp_path / "d")
        assert identity.credentials.key_pem == key
        assert len({line.name for line in world.authority._store.load_log() if line.event == "join"}) == 1

    running(state, scenario)


def test_the_key_is_on_disk_before_it_is_sent(state, tmp_path, monkeypatch):
    asked = enrolment.create_request

    def check(key):
        assert (tmp_path / "d" / NEW_KEY_FILE).exists()
        return asked(key)

    monkeypatch.setattr(enrolment, "create_request", check)

    async def scenario(world):
        await enter(world.token(), tmp_path / "d")

    running(state, scenario)


def test_a_damaged_key_of_an_earlier_try_is_named(state, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / NEW_KEY_FILE).write_bytes(b"half a k")

    async def scenario(world):
        with pytest.raises(ConfigError, match=NEW_KEY_FILE):
            await enter(world.token(), tmp_path / "d")

    running(state, scenario)


# --- nobody there


def test_an_authority_that_is_not_there_is_worth_a_retry(state, tmp_path):
    async def scenario(world):
        token = world.token()
        await world.authority.stop()
        with pytest.raises(CarrierError, match="is it running") as caught:
            await enter(token, tmp_path / "d")
        assert caught.value.retryable
        assert not (tmp_path / "d").exists()

    running(state, scenario)


def test_a_server_that_says_nothing_costs_the_timeout_and_no_more(tmp_path):
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
            token = JoinToken("ab" * 32, "01" * 8, bytes(32), f"127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(CarrierError) as caught:
                await join(token, Role.DEVICE, tmp_path / "d", now=real_now, timeout_s=0.3)
        assert caught.value.retryable

    asyncio.run(scenario())


def test_what_is_kept_is_readable_and_damaged_files_are_refused(state, tmp_path):
    async def scenario(world):
        await enter(world.token(), tmp_path / "d")

    running(state, scenario)
    path = tmp_path / "d" / IDENTITY_FILE
    whole = path.read_text()
    document = json.loads(whole)
    for damage in (
        whole[:100],
        "[]",
        json.dumps(document | {"key_pem": "-----BEGIN PRIVATE KEY-----\nMIGH"}),
        json.dumps({name: value for name, value in document.items() if name != "root_pem"}),
    ):
        path.write_text(damage)
        with pytest.raises(ConfigError, match="join again") as caught:
            load_identity(tmp_path / "d", Role.DEVICE)
        assert "MIGH" not in str(caught.value)
    path.write_text(whole)
    with pytest.raises(ConfigError, match="expected a trainer"):
        load_identity(tmp_path / "d", Role.TRAINER)
    with pytest.raises(ConfigError, match="prunefleet edge join TOKEN"):
        load_identity(make_state(tmp_path / "other"), Role.DEVICE)
