"""Slim bases for decisions: from the cache of finished ones, or made by a child process from a base and public data.

Nothing is trained twice for the same decision, whatever happens between training and publishing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunefleet_edge.threads import DEFAULT_THREADS
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.document_file import read_document_file, write_document
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import InputError
from prunefleet_shared.messages import Link
from prunefleet_shared.steering_record import SteeringRecord, record_digest
from prunefleet_trainer.model_folder import KEY_DIGITS, ModelFolder, check_hex
from prunefleet_trainer.model_transfer import fetch_model
from prunefleet_trainer.recipe_name import RecipeName
from prunefleet_trainer.retrain_job import RetrainOrder, cache_key
from prunefleet_trainer.runner import Retrained, SteeringSums

MAX_RETRAIN_S = 48 * 3600.0
"""Longest time that a retraining may take."""
RETRAINED, PRUNED = "slim_bases", "pruned_bases"
"""Folders of finished models."""
ID_DIGITS = 32
STOP_S = 5.0
"""Time a child has to end before it is killed."""


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    """How slim bases are made.

    Attributes:
        public: The public data, as ``data_source.load_source`` reads it; None: there are none, bases are only pruned.
        state: Folder of the caches.
        base: A base's safetensors file; used for campaigns of its digest.
        recipe: Which recipe.
        epochs: Passes over the data, at most; None leaves the recipe's.
        threads: torch's.
        allowed_code: Each ``package.module:factory`` that the person at this machine lets a network be made by.
        is_unlabelled: Whether the base's own answers take the place of the data's labels.
    """

    public: str | None
    state: Path
    base: Path | None = None
    recipe: RecipeName = RecipeName.AUTO
    epochs: int | None = None
    threads: int = DEFAULT_THREADS
    allowed_code: tuple[str, ...] = ()
    is_unlabelled: bool = False


class ChildRetraining:
    """Makes slim bases, one at a time; pass it to ``TrainerRunner`` as ``retrain``.

    Args:
        link: Where bases are fetched from that are not at hand.
        plan: How.
        say: Told in words what happens.
    """

    def __init__(self, link: Link, plan: RetrainPlan, say: Callable[[str], None]) -> None:
        self._link = link
        self._plan = plan
        self._say = say
        self._bases = ModelFolder(plan.state / "bases")
        # Apart, so that public data which came later are used, and pruned bases are not taken for retrained ones.
        self._cache = plan.state / (PRUNED if plan.public is None else RETRAINED)
        self._slim_bases = ModelFolder(self._cache)

    async def __call__(self, campaign: Campaign, decision: Decision, sums: SteeringSums | None) -> Retrained:
        """The slim base of ``decision``, steered by ``sums``.

        Raises:
            InputError: Data or base cannot be used, or training failed (the user's to mend).
            ConfigError: The state folder cannot be written.
            RemoteProtocolError: The coordinator has no such base, or a decision that names itself oddly.
            CarrierError: It cannot be reached.
        """
        for text, num_digits in ((decision.fingerprint, KEY_DIGITS), (decision.campaign_id, ID_DIGITS)):
            check_hex(text, num_digits)  # they are in names of files
        finished = self._finished(decision, sums)
        if finished:
            self._say(f"level {decision.level + 1} was made before; sending it again")
            return finished
        base = await self._base(campaign)
        self._say(f"campaign {campaign.campaign_id[:8]}, level {decision.level + 1}: {self._what()}")
        await _run_child(self._write_order(campaign, decision, base, sums))
        finished = self._finished(decision, sums)
        if finished is None:
            msg = f"{self._what()} level {decision.level + 1} left no model in {self._plan.state}; is the disk full?"
            raise InputError(msg)
        return finished

    def _what(self) -> str:
        return "pruning, without public data" if self._plan.public is None else "retraining"

    def _finished(self, decision: Decision, sums: SteeringSums | None) -> Retrained | None:
        if self._plan.public is None:
            pruned = self._slim_bases.path(cache_key(decision))
            return None if pruned is None else Retrained(pruned.read_bytes(), is_retrained=False)
        path, record = self._slim_bases.path(cache_key(decision)), self._record_path(decision)
        if path is None or (sums is not None and not record.exists()):
            return None
        steering = "" if sums is None else record_digest(read_document_file(record, SteeringRecord))
        return Retrained(path.read_bytes(), steering)

    def _record_path(self, decision: Decision) -> Path:
        return self._plan.state / f"steering-{decision.campaign_id}-level-{decision.level}.json"

    async def _base(self, campaign: Campaign) -> Path:
        cached = self._given_base(campaign) or self._bases.path(campaign.base_digest)
        if cached:
            return cached
        self._say(f"fetching the base {campaign.base_digest[:12]} from the coordinator")
        return self._bases.save(campaign.base_digest, await fetch_model(self._link, campaign.base_digest))

    def _given_base(self, campaign: Campaign) -> Path | None:
        path = self._plan.base
        if path is None:
            return None
        try:
            got = digest(path.read_bytes())
        except OSError as error:
            msg = f"{path}: expected a safetensors file, got {error.strerror}"
            raise InputError(msg) from None
        if got == campaign.base_digest:
            return path
        self._say(f"{path} is {got[:12]}, not the base of campaign {campaign.campaign_id[:8]}; not used for it")
        return None

    def _write_order(self, campaign: Campaign, decision: Decision, base: Path, sums: SteeringSums | None) -> Path:
        order = RetrainOrder(
            campaign=canonical_bytes(campaign).decode(),
            decision=canonical_bytes(decision).decode(),
            base=str(base),
            public=self._plan.public or "",
            recipe=self._plan.recipe,
            epochs=self._plan.epochs or 0,
            threads=self._plan.threads,
            cache=str(self._cache),
            allowed_code=self._plan.allowed_code,
            vote_total="" if sums is None else canonical_bytes(sums.vote).decode(),
            outcome_totals=tuple(canonical_bytes(total).decode() for total in sums.outcomes) if sums else (),
            steering_record=str(self._record_path(decision)),
            is_unlabelled=self._plan.is_unlabelled,
        )
        path = self._plan.state / "order.json"
        write_document(path, order)
        return path


async def _run_child(order: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "prunefleet_trainer.retrain_job",
        str(order),
        stdin=asyncio.subprocess.PIPE,  # kept open: the child ends when it closes, however we end
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # an interrupt at the keyboard is ours to pass on
    )
    try:
        async with asyncio.timeout(MAX_RETRAIN_S):
            said = await child.stdout.read() if child.stdout else b""
            exit_code = await child.wait()
    except TimeoutError:
        msg = f"retraining took longer than {MAX_RETRAIN_S / 3600:.0f} h; give it less data or fewer --epochs"
        raise InputError(msg) from None
    finally:
        await _end(child)
    if exit_code:
        raise InputError(_why(exit_code, said))


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def _why(exit_code: int, said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1]
    if exit_code < 0:
        return f"retraining was ended by signal {-exit_code}; a machine short of memory does that (signal 9)"
    return f"retraining ended with exit code {exit_code}; what it printed is above"
