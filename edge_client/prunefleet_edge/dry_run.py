"""Exactly what would be sent, in words and bytes, without sending it: through the same egress, over no line at all."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress, EgressRecord, vote_vector
from prunefleet_edge.model_cache import CAMPAIGN_FILE, FolderCache
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.threads import DEFAULT_THREADS
from prunefleet_shared import wire
from prunefleet_shared.campaign import PLAIN, Campaign
from prunefleet_shared.document_file import read_signed
from prunefleet_shared.documents import digest, open_document
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError
from prunefleet_shared.identity_folder import IDENTITY_FILE, load_identity
from prunefleet_shared.lanes import LaneRule, LaneTable, unpack
from prunefleet_shared.messages import CheckIn, Down, FetchModel, GetCampaign, Readiness, SessionKind, SumUp, Up
from prunefleet_shared.private_sum import SessionFacts, ring_of
from prunefleet_shared.roles import Role

BASE_FILE = "base.safetensors"
UNKNOWN_SESSION = "0" * 32
"""Stands for the session's id, which the coordinator draws."""


@dataclass(frozen=True, slots=True)
class WouldSend:
    """One message that would leave.

    Attributes:
        kind: Its type.
        when: At what point of a campaign, and how often.
        words: What it says, as the audit would have it.
        wire_hex: Its bytes on the wire, before TLS.
        sha256: Over them.
    """

    kind: str
    when: str
    words: str
    wire_hex: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a device would send in a campaign.

    Attributes:
        campaign_id: The campaign.
        signer: What is known of who signed it.
        messages: In order, the vote last.
        vote_leaves: How the vote leaves, in words.
        vote_blocks: The vote's vector, block by block.
        payload_hex: The vote as it is packed.
        payload_sha256: Over it: in mode ``plain``, what the audit would show.
        outcome_blocks: Form of the later outcome: blocks with their lengths; its values depend on the decision.
        outcome_bytes: Size of the outcome.
    """

    campaign_id: str
    signer: str
    messages: tuple[WouldSend, ...]
    vote_leaves: str
    vote_blocks: dict[str, list[int]]
    payload_hex: str
    payload_sha256: str
    outcome_blocks: dict[str, int]
    outcome_bytes: int


class _NoLine:
    """Where a line would be: remembers, and refuses."""

    def __init__(self) -> None:
        self.heard: list[Up] = []

    async def call(self, message: Up) -> Down:
        self.heard.append(message)
        raise _NothingSent


class _NothingSent(Exception):  # noqa: N818 - what happened, not what went wrong
    pass


def try_dry_run(folder: StateFolder, source: str, campaign_path: Path | None, recipe: str) -> DryRun:
    """Prepare the vote in this process, and collect what would be sent.

    Args:
        folder: The device's state; need not exist.
        source: Where the images are.
        campaign_path: The campaign's folder or ``campaign.json``; None for the last one this device has seen.
        recipe: Name of the recipe for fine-tuning.

    Raises:
        ConfigError: No campaign, or one by a stranger.
        InputError: Campaign, base or data cannot be used.
    """
    from prunefleet_edge.work_process import NO_DATA

    if source == NO_DATA:
        msg = "a device without data prepares no vote: all it ever sends are check-ins and requests for networks"
        raise ConfigError(msg)
    path = _campaign_file(folder, campaign_path)
    campaign, signer = _campaign(folder, path)
    base = _base(folder, path, campaign)
    vote, fingerprint = _prepare(folder, source, recipe, campaign, base)
    collector = _Collector()
    payload = collector.egress.seal(campaign, SessionKind.VOTE, vote_vector(campaign, vote))
    check_in = CheckIn(campaign.campaign_id, fingerprint, Readiness.READY)
    busy = CheckIn(campaign.campaign_id, fingerprint, Readiness.BUSY)
    collector.add(GetCampaign(campaign.device_class), "until there is a campaign")
    collector.add(FetchModel(campaign.base_digest, 0), "once for each piece of the base model, unless it is cached")
    collector.add(check_in, "until invited, and after each contribution")
    collector.add(busy, "every few seconds while the device works")
    outcome_lanes = campaign.lanes_of(SessionKind.OUTCOME)
    if campaign.privacy.mode == PLAIN:
        facts = SessionFacts(UNKNOWN_SESSION, SessionKind.VOTE, 0, 1)
        contribute = collector.egress.open_sum(campaign, facts, payload, None).start()
        collector.add(contribute, "once, to a session whose id the coordinator draws")
    return DryRun(
        campaign_id=campaign.campaign_id,
        signer=signer,
        messages=tuple(collector.messages),
        vote_leaves=_how_it_leaves(campaign),
        vote_blocks=_blocks(campaign.vote_lanes, payload),
        payload_hex=payload.hex(),
        payload_sha256=digest(payload),
        outcome_blocks={block.name: block.length for block in outcome_lanes.blocks},
        outcome_bytes=outcome_lanes.packed_bytes,
    )


class _Collector:
    """Sends through a real egress whose line leads nowhere."""

    def __init__(self) -> None:
        self.messages: list[WouldSend] = []
        self._records: list[EgressRecord] = []
        self._line = _NoLine()
        self.egress = Egress(self._line, audit=self._records.append)

    def add(self, message: GetCampaign | CheckIn | SumUp | FetchModel, when: str) -> None:
        """What the egress lets out of ``message``."""
        with suppress(_NothingSent):
            self.egress.send(message).send(None)  # no event loop: an event loop owns a socket
        sent = wire.encode_up(self._line.heard[-1])
        record = self._records[-1]
        self.messages.append(WouldSend(record.kind, when, record.words, sent.hex(), digest(sent)))


def _campaign_file(folder: StateFolder, given: Path | None) -> Path:
    path = given or folder.cache
    path = path / CAMPAIGN_FILE if path.is_dir() else path
    if not path.is_file():
        where = "this device has seen no campaign yet; name one with --campaign" if given is None else "give its folder"
        msg = f"{path}: expected a campaign; {where}"
        raise ConfigError(msg)
    return path


def _campaign(folder: StateFolder, path: Path) -> tuple[Campaign, str]:
    signed = read_signed(path)
    try:
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from None
    if not (folder.path / IDENTITY_FILE).exists():
        return campaign, "by a key that this device cannot judge: it has not joined a fleet yet"
    if signed.public_key not in load_identity(folder.path, Role.DEVICE).operator_keys:
        msg = f"{path}: signed by none of this fleet's operators; a device would refuse it"
        raise ConfigError(msg)
    return campaign, "by an operator of this device's fleet"


def _base(folder: StateFolder, path: Path, campaign: Campaign) -> bytes:
    beside = path.parent / BASE_FILE
    base = beside.read_bytes() if beside.is_file() else FolderCache(folder.cache).load(campaign.base_digest)
    if base is None or digest(base) != campaign.base_digest:
        msg = f"{beside}: expected the base model {campaign.base_digest[:12]} there, or in {folder.cache}"
        raise InputError(msg)
    return base


def _prepare(folder: StateFolder, source: str, recipe: str, campaign: Campaign, base: bytes) -> tuple[Vote, str]:
    from prunefleet_edge.work_process import WorkSetup, start_worker

    is_known = (folder.path / IDENTITY_FILE).exists()
    name = load_identity(folder.path, Role.DEVICE).name if is_known else "dry-run"
    # A device that has not joined has no seed yet, and a dry run should leave nothing behind.
    seed, work_dir = (folder.seed(), folder.work) if is_known else (0, None)
    worker = start_worker(WorkSetup(source, name, recipe, seed, DEFAULT_THREADS, work_dir, None))
    fingerprint, _ = worker.trace(campaign, base)
    return worker.vote(campaign, base), fingerprint


def _blocks(table: LaneTable, payload: bytes) -> dict[str, list[int]]:
    return {name: part.tolist() for name, part in table.split(unpack(table, payload)).items()}


def _how_it_leaves(campaign: Campaign) -> str:
    if campaign.privacy.mode == PLAIN:
        return "as it is: in privacy mode plain the coordinator sees it"
    masked_bytes = ring_of(campaign, campaign.vote_lanes).packed_bytes
    noise = campaign.privacy.noise
    added = "" if noise is None else f"after noise was added (epsilon {noise.epsilon_milli / 1000:g} per campaign) and "
    return (
        f"never as it is, but {added}under masks that come off only in the sum of {campaign.privacy.min_devices} to "
        f"{campaign.cohort.size} devices: {masked_bytes} bytes that look like chance, between messages with keys, "
        "encrypted shares of keys, and signatures, which are drawn anew in each session"
    )


def dry_run_json(result: DryRun) -> str:
    """The result for machines."""
    return json.dumps(asdict(result), indent=2)


def dry_run_text(result: DryRun) -> str:
    """The result for people."""
    lines = [f"Campaign {result.campaign_id}, signed {result.signer}. NOTHING WAS SENT.", "", "Messages:"]
    for message in result.messages:
        lines += [f"  {message.kind}: {message.words} ({message.when})", f"    sha256 {message.sha256}"]
        lines += [f"    {len(message.wire_hex) // 2} bytes: {message.wire_hex}"]
    lines += ["", f"The vote leaves {result.vote_leaves}.", ""]
    lines += [f"The vote, {len(result.payload_hex) // 2} bytes, block by block:"]
    lines += [f"  {name}: {_in_words(name, lanes)}" for name, lanes in result.vote_blocks.items()]
    lines += [f"  as bytes: {result.payload_hex}", f"  sha256 {result.payload_sha256}", ""]
    lines.append(f"Later, for each decision, an outcome of {result.outcome_bytes} bytes; its values are not known yet:")
    lines += [f"  {name}: {length} lanes" for name, length in result.outcome_blocks.items()]
    return "\n".join(lines)


def _in_words(name: str, lanes: list[int]) -> str:
    if name.startswith("width/"):
        return f"option {lanes.index(1)} of 0..{len(lanes) - 1} ({LaneRule.ONE_HOT})"
    return "grades " + " ".join(str(lane) for lane in lanes)
