"""A fleet whose private data are planted with marks, everything it says overheard, and a scanner that finds the marks.

Two devices do their real work in torch and speak real gRPC with mutual TLS to a real coordinator and trainer.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import SqlStore
from prunefleet_coordinator.testing import counting_ids
from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import ImageArray, LabelArray, Samples, check_images
from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress, EgressRecord
from prunefleet_edge.models import parse_spec
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.runner import DeviceRunner, SumMembership
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_shared.campaign import PLAIN, SUM, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.documents import sign_document
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import Ending, Role
from prunefleet_shared.meter import Direction, Meter
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_KEY, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import BaseFiles, describe_base, make_campaign
from prunefleet_trainer.public import fresh, retrain_slim_base
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
RECIPE = Recipe(epochs=1, learning_rate=0.05, batch_size=8)
NUM_IMAGES = 16
LIMIT_S = 60.0
NEVER_S = 10 * LIMIT_S
WINDOW = 8
MIN_DEVICES = 4
IN_PLAIN, IN_SUM = PrivacyTerms(PLAIN, 1), PrivacyTerms(SUM, MIN_DEVICES)

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

    def __init__(self, own: Samples, seed: int, state_dir: Path, votes: dict[int, Vote]) -> None:
        self._own, self._seed, self._votes = own, seed, votes
        self._options = work.WorkOptions(RECIPE, seed=seed, state_dir=state_dir)

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return campaign_networks.layout_fingerprint(campaign, base)

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        self._votes[self._seed] = work.prepare_vote(campaign, base, self._own, self._options)
        return self._votes[self._seed]

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        return work.personalise(campaign, decision, base, slim_base, self._own, self._options).outcome


class Bystander(Worker):
    """Fills a cohort without training: a vote by chance, no outcome."""

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        rng, layout = np.random.default_rng(self._seed), campaign.layout
        options_LG = rng.integers(0, NUM_WIDTH_OPTIONS, (len(campaign.levels), len(layout.groups)))
        grades_C, lifts_C = (grade_layout(layout, rng.random(layout.num_channels)) for _ in range(2))
        self._votes[self._seed] = Vote(grades_C, options_LG, lifts_C)
        return self._votes[self._seed]

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        return Outcome(finished=False)


@dataclass
class Overheard:
    """Every message that devices sent, by name, and what else is worth a look afterwards; ``votes`` by number."""

    up: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    audits: dict[str, list[EgressRecord]] = field(default_factory=dict)
    votes: dict[int, Vote] = field(default_factory=dict)

    def record(self, peer_id: str, method: str, direction: Direction, data: bytes) -> None:
        if direction is Direction.UP:
            self.up.setdefault(peer_id, []).append((method.rsplit("/", 1)[1], data))

    def sizes(self, peer_id: str) -> list[tuple[str, int]]:
        return [(method, len(data)) for method, data in self.up[peer_id]]


PUBLIC = Samples(torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 4)


def campaign_files(privacy: PrivacyTerms = IN_PLAIN) -> tuple[BaseFiles, Campaign]:
    files = describe_base(SPEC, fresh(SPEC, 1), PUBLIC)
    size = max(2, privacy.min_devices)
    cohort = CohortPolicy(size=size, quorum=size, deadline_ms=600_000)
    campaign = make_campaign(
        files,
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(250,),
        cohort=cohort,
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=privacy,
    )
    return files, campaign


Data = Callable[[int], tuple[ImageArray, LabelArray]]


def play(folder: Path, data: Data, privacy: PrivacyTerms = IN_PLAIN) -> Overheard:
    """A whole campaign over two devices, of which ``device-0`` has ``data`` and the other always the same.

    A private sum needs more devices than two: the rest are bystanders.
    """
    overheard, (files, campaign) = Overheard(), campaign_files(privacy)
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
        coordinator = CoordinatorRunner(
            signed,
            KEY,
            store,
            store,
            time.monotonic,
            counting_ids(),
            members=Members(authority.cert_pem, _now),
            poll_s=NEVER_S,
        )
        server = await start_server(coordinator, issue(authority, Role.COORDINATOR, "coordinator", _now()), clock=_now)
        stack.push_async_callback(server.stop, 0)
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            group.create_task(coordinator.run())
            group.create_task(_train(authority, server.port, files, campaign))
            for number in range(campaign.cohort.size):
                own = data(0) if number == 0 else other(number)
                group.create_task(_take_part(number, own, folder, authority, server.port, overheard))


async def _train(authority: Authority, port: int, files: BaseFiles, campaign: Campaign) -> None:
    link = GrpcLink(f"127.0.0.1:{port}", issue(authority, Role.TRAINER, "trainer", _now()), timeout_s=LIMIT_S)

    async def retrain(_campaign: Campaign, decision: Decision, _sums: SteeringSums | None) -> Retrained:
        masks = masks_by_order(decision.prior, decision.widths)
        return Retrained(retrain_slim_base(campaign.model, files.weights, masks, PUBLIC, RECIPE, 1))

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
    credentials = issue(authority, Role.DEVICE, name, _now())
    link = GrpcLink(f"127.0.0.1:{port}", credentials, timeout_s=LIMIT_S, meter=meter)
    samples = check_images(*data, SPEC.num_classes, NAME_CANARY)
    try:
        runner = DeviceRunner(
            Egress(link, audit=heard.audits.setdefault(name, []).append),
            (Worker if number < 2 else Bystander)(samples, number, state_dir, heard.votes),
            store,
            device_class="camera",
            operator_keys=[COORDINATOR_PUBLIC],
            clock=time.monotonic,
            sleep=asyncio.sleep,
            rng=random.Random(number),
            on_state=lambda words: None,
            membership=SumMembership(
                lambda: SumIdentity.of(credentials),
                Members(authority.cert_pem, _now),
                MIN_DEVICES,
                random.Random(number).randbytes,
            ),
        )
        assert await runner.run() is Ending.COMPLETED
    finally:
        store.close()
        await link.close()


def _now() -> datetime:
    return datetime.now(UTC)


def weights_too(scanner: Scanner, folder: Path) -> Scanner:
    """The same scanner, with every weight of every dense copy that ``device-0`` trained below ``folder``."""
    copies = sorted((folder / "device-0").rglob("dense-*.safetensors"))
    assert len(copies) == 3, "of all images, and of each half that the gate judged"
    for copy in copies:
        for name, tensor in load_file(copy).items():
            if np.issubdtype(tensor.dtype, np.floating):
                scanner.forbid_floats(tensor, f"weights of {name}")
    assert len(scanner.secrets) > 10_000
    return scanner
