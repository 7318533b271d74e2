"""What a device knows is planted with marks, and no byte it sends carries one, whatever the disguise.

Two devices do their real work in torch and speak real gRPC with mutual TLS to a real coordinator and trainer. The
scanner that finds nothing is shown to find every mark once it is put into a message.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import SqlStore
from prunefleet_coordinator.testing import counting_ids
from prunefleet_edge import work
from prunefleet_edge.data import ImageArray, LabelArray, Samples, check_images
from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress, EgressRecord
from prunefleet_edge.models import parse_spec
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_shared import wire
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import Contribute, Ending, Role, SessionKind
from prunefleet_shared.meter import Direction, Meter
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_KEY, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import BaseFiles, describe_base, make_campaign
from prunefleet_trainer.public import fresh, retrain_slim_base
from prunefleet_trainer.runner import TrainerRunner

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
RECIPE = Recipe(epochs=1, learning_rate=0.05, batch_size=8)
NUM_IMAGES = 16
LIMIT_S = 60.0
NEVER_S = 10 * LIMIT_S
WINDOW = 8

PIXEL_CANARY = bytes.fromhex("9b17e4c35ad28f61b07c4be91d36f2a8")
LABEL_CANARY = [3, 0, 2, 1, 0, 3, 1, 2, 2, 0, 1, 3, 0, 1, 3, 2]
NAME_CANARY = "holiday-snapshot-7f3e19"


# --- the scanner -----------------------------------------------------------------------------------------------------


def views(data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and whatever could be hidden in them as hex, base64 or deflate, at any position."""
    yield data
    for run in re.findall(rb"[0-9a-fA-F]{16,}", data):
        yield from (bytes.fromhex(run[start : start + (len(run) - start) // 2 * 2].decode()) for start in (0, 1))
    for run in re.findall(rb"[A-Za-z0-9+/_-]{11,}", data):
        plain = run.translate(bytes.maketrans(b"-_", b"+/"))
        yield from (base64.b64decode(plain[start : start + (len(plain) - start) // 4 * 4]) for start in range(4))
        yield from (
            base64.b64decode(plain[start:] + b"=" * (-len(plain[start:]) % 4))
            for start in range(4)
            if len(plain[start:]) % 4 != 1
        )
    for start in range(len(data)):
        for window_bits in (15, -15, 31):
            try:
                yield zlib.decompressobj(window_bits).decompress(data[start:], 1 << 20)
            except zlib.error:
                continue


@dataclass
class Scanner:
    """Looks for any run of :data:`WINDOW` bytes of what must not leave, and for some longer runs as a whole.

    Attributes:
        secrets: Their windows and where each came from.
        phrases: What is too regular for windows: only the whole of it says something.
    """

    secrets: dict[bytes, str] = field(default_factory=dict)
    phrases: dict[bytes, str] = field(default_factory=dict)

    def forbid(self, secret: bytes, what: str, step: int = 1) -> None:
        windows = (secret[start : start + WINDOW] for start in range(0, len(secret) - WINDOW + 1, step))
        self.secrets |= {window: what for window in windows if len(set(window)) >= WINDOW // 2}

    def forbid_floats(self, values: np.ndarray, what: str) -> None:
        self.forbid(np.ascontiguousarray(values, dtype="<f4").tobytes(), what, step=4)

    def found(self, data: bytes) -> set[str]:
        found = set()
        for view in views(data):
            found |= {what for phrase, what in self.phrases.items() if phrase in view}
            for start in range(len(view) - WINDOW + 1):
                what = self.secrets.get(view[start : start + WINDOW])
                if what:
                    found.add(what)
        return found


def canaries() -> Scanner:
    scanner = Scanner()
    scanner.forbid(PIXEL_CANARY, "pixels as bytes")
    scanner.forbid_floats(np.frombuffer(PIXEL_CANARY, dtype=np.uint8).astype(np.float32) / 255, "pixels as floats")
    labels = np.asarray(LABEL_CANARY)
    scanner.phrases[labels[:WINDOW].astype("u1").tobytes()] = "labels as bytes"
    scanner.phrases[labels[:4].astype("<i8").tobytes()] = "labels as integers"
    scanner.forbid(NAME_CANARY.encode(), "a file's name")
    return scanner


# --- the fleet -------------------------------------------------------------------------------------------------------


def planted(seed: int) -> tuple[ImageArray, LabelArray]:
    """Private images with the canary in each of them, and labels that are one."""
    images = np.random.default_rng(seed).integers(0, 256, (NUM_IMAGES, 8, 8, 1), dtype=np.uint8)
    images[:, 2:4] = np.frombuffer(PIXEL_CANARY, dtype=np.uint8).reshape(2, 8, 1)
    return images, np.asarray(LABEL_CANARY, dtype=np.int64)


def other(seed: int) -> tuple[ImageArray, LabelArray]:
    """Private images of another kind: half as many, two classes, hardly any contrast."""
    images = np.random.default_rng(seed).integers(100, 110, (NUM_IMAGES // 2, 8, 8, 1), dtype=np.uint8)
    return images, np.arange(NUM_IMAGES // 2, dtype=np.int64) % 2 + 1


class Worker:
    """``DeviceWork`` by the device's real code, here and now."""

    def __init__(self, own: Samples, seed: int, state_dir: Path) -> None:
        self._own = own
        self._options = work.WorkOptions(RECIPE, seed=seed, state_dir=state_dir)

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return work.layout_fingerprint(campaign, base)

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        return work.prepare_vote(campaign, base, self._own, self._options)

    async def personalise(self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes) -> Outcome:
        return work.personalise(campaign, decision, base, slim_base, self._own, self._options).outcome


@dataclass
class Overheard:
    """Every message that devices sent, by name, and what else is worth a look afterwards."""

    up: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    audits: dict[str, list[EgressRecord]] = field(default_factory=dict)

    def record(self, peer_id: str, method: str, direction: Direction, data: bytes) -> None:
        if direction is Direction.UP:
            self.up.setdefault(peer_id, []).append((method.rsplit("/", 1)[1], data))

    def sizes(self, peer_id: str) -> list[tuple[str, int]]:
        return [(method, len(data)) for method, data in self.up[peer_id]]


def campaign_files() -> tuple[BaseFiles, Campaign]:
    files = describe_base(SPEC, fresh(SPEC, 1))
    cohort = CohortPolicy(size=2, quorum=2, deadline_ms=600_000)
    campaign = make_campaign(
        files,
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(250,),
        cohort=cohort,
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
    )
    return files, campaign


Data = Callable[[int], tuple[ImageArray, LabelArray]]


def play(folder: Path, data: Data) -> Overheard:
    """A whole campaign over two devices, of which ``device-0`` has ``data`` and the other always the same."""
    overheard, (files, campaign) = Overheard(), campaign_files()
    asyncio.run(_play(folder, data, overheard, files, campaign))
    return overheard


async def _play(folder: Path, data: Data, overheard: Overheard, files: BaseFiles, campaign: Campaign) -> None:
    authority = create_authority(_now())
    async with AsyncExitStack() as stack:
        store = SqlStore(f"sqlite:///{folder / 'coordinator.sqlite'}")
        stack.callback(store.close)
        store.save_blob(files.weights)
        signed = sign_document("campaign", campaign, KEY)
        # A poll that outlasts the test: a device then sends the same messages however slow the machine is.
        coordinator = CoordinatorRunner(signed, KEY, store, store, time.monotonic, counting_ids(), poll_s=NEVER_S)
        server = await start_server(coordinator, issue(authority, Role.COORDINATOR, "coordinator", _now()), clock=_now)
        stack.push_async_callback(server.stop, 0)
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            group.create_task(coordinator.run())
            group.create_task(_train(authority, server.port, files, campaign))
            group.create_task(_take_part(0, data(0), folder, authority, server.port, overheard))
            group.create_task(_take_part(1, other(1), folder, authority, server.port, overheard))


async def _train(authority: Authority, port: int, files: BaseFiles, campaign: Campaign) -> None:
    link = GrpcLink(f"127.0.0.1:{port}", issue(authority, Role.TRAINER, "trainer", _now()), timeout_s=LIMIT_S)
    public = Samples(torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 4)

    async def retrain(_campaign: Campaign, decision: Decision) -> bytes:
        masks = masks_by_order(decision.prior, decision.widths)
        return retrain_slim_base(campaign.model, files.weights, masks, public, RECIPE, 1)

    keys = [COORDINATOR_PUBLIC]
    campaign_id = campaign.campaign_id
    runner = TrainerRunner(link, campaign_id, operator_keys=lambda: keys, signing_key=TRAINER_KEY, retrain=retrain)
    try:
        assert await runner.run() is Ending.COMPLETED
    finally:
        await link.close()


async def _take_part(
    number: int, data: tuple[ImageArray, LabelArray], folder: Path, authority: Authority, port: int, heard: Overheard
) -> None:
    name = f"device-{number}"
    state_dir = folder / name / NAME_CANARY
    state_dir.mkdir(parents=True)
    store = SqliteDeviceStore(state_dir / f"{NAME_CANARY}.sqlite")
    meter = Meter(record=heard.record)
    link = GrpcLink(f"127.0.0.1:{port}", issue(authority, Role.DEVICE, name, _now()), timeout_s=LIMIT_S, meter=meter)
    samples = check_images(*data, SPEC.num_classes, NAME_CANARY)
    try:
        runner = DeviceRunner(
            Egress(link, audit=heard.audits.setdefault(name, []).append),
            Worker(samples, number, state_dir),
            store,
            device_class="camera",
            operator_keys=[COORDINATOR_PUBLIC],
            clock=time.monotonic,
            sleep=asyncio.sleep,
            rng=random.Random(number),
            on_state=lambda words: None,
        )
        assert await runner.run() is Ending.COMPLETED
    finally:
        store.close()
        await link.close()


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def overheard(folder: Path) -> Overheard:
    return play(folder, planted)


@pytest.fixture(scope="module")
def scanner(folder: Path, overheard: Overheard) -> Scanner:
    """The canaries, and every weight of every dense copy that the devices trained."""
    scanner = canaries()
    copies = sorted((folder / "device-0").rglob("dense-*.safetensors"))
    assert len(copies) == 3, "of all images, and of each half that the gate judged"
    for copy in copies:
        for name, tensor in load_file(copy).items():
            if np.issubdtype(tensor.dtype, np.floating):
                scanner.forbid_floats(tensor, f"weights of {name}")
    assert len(scanner.secrets) > 10_000
    return scanner


# --- nothing leaves --------------------------------------------------------------------------------------------------


def test_nothing_planted_is_in_any_byte_a_device_sent(overheard: Overheard, scanner: Scanner) -> None:
    sent = [data for _, data in overheard.up["device-0"]]
    assert [scanner.found(data) for data in sent] == [set()] * len(sent)
    assert scanner.found(b"".join(sent)) == set(), "nor across messages"
    assert scanner.found(b"".join(data for _, data in overheard.up["device-0"][::-1])) == set()


def test_both_devices_said_something_of_each_kind(overheard: Overheard) -> None:
    for name in ("device-0", "device-1"):
        methods = [method for method, _ in overheard.up[name]]
        assert set(methods) == {"GetCampaign", "FetchModel", "CheckIn", "Contribute"}
        assert methods.count("Contribute") == 2


def hidden() -> Iterable[tuple[str, bytes]]:
    floats = (np.frombuffer(PIXEL_CANARY, dtype=np.uint8).astype("<f4") / 255).astype("<f4").tobytes()
    labels = np.asarray(LABEL_CANARY)
    marks = {
        "pixels as bytes": PIXEL_CANARY,
        "pixels as floats": floats,
        "labels as bytes": labels.astype("u1").tobytes(),
        "labels as integers": labels.astype("<i8").tobytes(),
        "a file's name": NAME_CANARY.encode(),
    }
    disguises: tuple[Callable[[bytes], bytes], ...] = (
        bytes,
        lambda mark: mark.hex().encode(),
        lambda mark: mark.hex().upper().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
        zlib.compress,
        gzip.compress,
        lambda mark: zlib.compress(mark, 0),
    )
    for what, mark in marks.items():
        for disguise in disguises:
            yield what, disguise(mark)


def test_the_scanner_finds_every_mark_in_a_contribution_that_carries_it(scanner: Scanner) -> None:
    rng = random.Random(1)
    for what, disguised in hidden():
        payload = rng.randbytes(rng.randrange(40)) + b"|" + disguised + b"|" + rng.randbytes(rng.randrange(40))
        message = wire.encode_up(Contribute("ab" * 16, payload))
        assert what in scanner.found(message), (what, disguised)


def test_the_scanner_finds_a_few_weights_of_the_dense_copy(folder: Path, scanner: Scanner) -> None:
    copy = next((folder / "device-0").rglob("dense-*.safetensors"))
    tensors = load_file(copy)
    name = max(tensors, key=lambda name: tensors[name].size)
    payload = b"\x01" + tensors[name].ravel()[100:104].astype("<f4").tobytes() + b"\x02"
    assert f"weights of {name}" in scanner.found(wire.encode_up(Contribute("ab" * 16, payload)))


def test_the_scanner_is_silent_on_noise(scanner: Scanner) -> None:
    assert scanner.found(random.Random(2).randbytes(4000)) == set()


# --- sizes and records tell nothing either ---------------------------------------------------------------------------


def test_messages_have_the_same_sizes_whatever_the_data(overheard: Overheard, tmp_path: Path) -> None:
    again = play(tmp_path, other)
    assert again.sizes("device-0") == overheard.sizes("device-0")
    contributions = [
        [data for method, data in world.up["device-0"] if method == "Contribute"] for world in (overheard, again)
    ]
    assert contributions[0] != contributions[1], "what is in them does depend on the data, or this would prove nothing"


def test_the_owner_s_audit_lists_every_message(overheard: Overheard) -> None:
    for name, sent in overheard.up.items():
        assert [record.kind for record in overheard.audits[name]] == [method for method, _ in sent]
        contributed = [data for method, data in sent if method == "Contribute"]
        records = [record for record in overheard.audits[name] if record.kind == "Contribute"]
        for record, data in zip(records, contributed, strict=True):
            payload = payload_of(data)
            assert (record.payload_bytes, record.digest) == (len(payload), digest(payload))


def test_the_coordinator_keeps_no_device_s_vector(folder: Path, overheard: Overheard) -> None:
    stored = b"".join(path.read_bytes() for path in sorted(folder.glob("coordinator.sqlite*")))
    assert stored
    for sent in overheard.up.values():
        for payload in (payload_of(data) for method, data in sent if method == "Contribute"):
            assert payload not in stored
            assert payload.hex().encode() not in stored
            assert base64.b64encode(payload) not in stored


def test_the_coordinator_can_say_what_the_fleet_said(folder: Path, overheard: Overheard) -> None:
    """The other side of the same coin: the sum of what was overheard is what is stored."""
    _, campaign = campaign_files()
    store = SqlStore(f"sqlite:///{folder / 'coordinator.sqlite'}")
    closed = store.load_closed(campaign.campaign_id, SessionKind.VOTE, 0)
    store.close()
    assert closed is not None
    total = np.zeros(campaign.vote_lanes.num_lanes, dtype=np.int64)
    for sent in overheard.up.values():
        first = next(data for method, data in sent if method == "Contribute")
        total += unpack(campaign.vote_lanes, payload_of(first))
    assert np.array_equal(closed.total.lanes, total)


def payload_of(data: bytes) -> bytes:
    message = wire.decode_up("/prunefleet.v1.Fleet/Contribute", data)
    assert isinstance(message, Contribute)
    return message.payload
