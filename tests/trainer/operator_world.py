"""A coordinator and an authority that give scripted answers over real gRPC, in a thread of their own, and members.

The command lines under test call ``asyncio.run``, so the servers must live in another thread's loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared.authority_messages import Member
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.documents import digest
from prunefleet_shared.identity_folder import Identity, identity_from, save_identity
from prunefleet_shared.messages import Awaited, CampaignStatus, Down, Peer, Phase, Stored, Up, UploadModel
from prunefleet_shared.roles import Role
from prunefleet_shared.wire_methods import AUTHORITY, COORDINATOR_SERVICES

Answer = Down | Exception | Callable[[Up], Down]


@dataclass
class ScriptedService:
    """Answers every message of a type alike; what has no answer is a bug in the test."""

    answers: dict[type, Answer] = field(default_factory=dict)
    asked: list[tuple[Peer, Up]] = field(default_factory=list)
    uploads: dict[str, bytearray] = field(default_factory=dict)

    async def handle(self, peer: Peer, message: Up) -> Down:
        self.asked.append((peer, message))
        if isinstance(message, UploadModel) and UploadModel not in self.answers:
            self.uploads.setdefault(message.digest, bytearray())[message.offset :] = message.chunk
            return Stored()
        answer = self.answers[type(message)]
        if isinstance(answer, Exception):
            raise answer
        return answer(message) if callable(answer) else answer

    def messages(self, kind: type) -> list[Up]:
        return [message for _, message in self.asked if isinstance(message, kind)]

    @property
    def whole_uploads(self) -> list[str]:
        return [name for name, body in self.uploads.items() if digest(bytes(body)) == name]


@dataclass
class World:
    """Everything that runs, and where the members' state is."""

    coordinator: ScriptedService
    authority: ScriptedService
    operator_state: Path
    trainer_state: Path
    operator: Identity
    trainer: Identity
    coordinator_key: bytes
    stop_coordinator: Callable[[], None]

    def member(self, role: Role, name: str = "", *, key: bytes | None = None, is_revoked: bool = False) -> Member:
        key = key or (self.coordinator_key if role is Role.COORDINATOR else self.trainer.public_key)
        return Member(name or role.value, role, key, 2_000_000_000_000, is_revoked)


def _identity(root: Authority, role: Role, folder: Path, keys: tuple[bytes, ...], ports: tuple[int, int]) -> Identity:
    credentials = issue(root, role, role.value, datetime.now(UTC))
    identity = identity_from(
        credentials,
        operator_keys=keys,
        coordinator_address=f"127.0.0.1:{ports[0]}",
        authority_address=f"127.0.0.1:{ports[1]}",
        device_class="",
    )
    if not keys:  # the operator trusts itself
        return _resaved(identity, folder)
    save_identity(folder, identity)
    return identity


def _resaved(identity: Identity, folder: Path) -> Identity:
    again = identity_from(
        identity.credentials,
        operator_keys=(identity.public_key,),
        coordinator_address=identity.coordinator_address,
        authority_address=identity.authority_address,
        device_class="",
    )
    save_identity(folder, again)
    return again


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    root = create_authority(datetime.now(UTC))
    coordinator, authority = ScriptedService(), ScriptedService()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    def clock() -> datetime:
        return datetime.now(UTC)

    coordinator_credentials = issue(root, Role.COORDINATOR, "coordinator", clock())
    servers = [
        call(start_server(service, credentials, clock=clock, services=services))
        for service, credentials, services in (
            (coordinator, coordinator_credentials, COORDINATOR_SERVICES),
            (authority, issue(root, Role.AUTHORITY, "authority", clock()), (AUTHORITY,)),
        )
    ]
    ports = servers[0].port, servers[1].port
    states = folder / "operator", folder / "trainer"
    for state in states:
        state.mkdir(parents=True)
    operator = _identity(root, Role.OPERATOR, states[0], (), ports)
    trainer = _identity(root, Role.TRAINER, states[1], (operator.public_key,), ports)
    coordinator_key = identity_from(
        coordinator_credentials, operator_keys=(), coordinator_address="", authority_address="", device_class=""
    ).public_key
    try:
        yield World(
            coordinator, authority, *states, operator, trainer, coordinator_key, lambda: call(servers[0].stop(0))
        )
    finally:
        for server in servers:
            call(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def invoke(app: Typer, *arguments: object) -> Result:
    """Run a command; an error raised on purpose is in ``exception``."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def campaign_status(campaign_id: str = "ab" * 16, phase: Phase = Phase.VOTING, **changes: object) -> CampaignStatus:
    facts: dict[str, object] = {
        "campaign_id": campaign_id,
        "device_class": "camera",
        "phase": phase,
        "is_paused": False,
        "level": 0,
        "num_levels": 2,
        "attempt": 1,
        "num_contributions": 3,
        "quorum": 6,
        "cohort_size": 10,
        "remaining_ms": 90_000,
        "awaited": Awaited.DEVICES,
        "awaited_for_ms": 30_000,
        "awaited_ids": ("camera-1", "camera-2"),
    }
    return CampaignStatus(**(facts | changes))
