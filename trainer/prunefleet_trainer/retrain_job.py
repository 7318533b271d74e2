"""The child process that prunes and retrains: ``python -m prunefleet_trainer.retrain_job ORDER_FILE``.

It reads an order, writes the model into the trainer's cache, and ends with the exit code of what went wrong, if
anything did; the sentence that says so is on stdout, progress on stderr. It ends with its parent: when stdin closes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunefleet_edge.threads import use_threads
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.document_file import read_document_file, write_document
from prunefleet_shared.documents import canonical_bytes, digest, read_document
from prunefleet_shared.durations import in_words
from prunefleet_shared.errors import InputError, PrunefleetError
from prunefleet_shared.messages import Total
from prunefleet_shared.steering_record import in_words as steering_words
from prunefleet_trainer.model_folder import ModelFolder
from prunefleet_trainer.recipe_name import RecipeName

if TYPE_CHECKING:
    from torch import Tensor

    from prunefleet_edge.data import Samples
    from prunefleet_shared.masks import BoolArray

TELL_S = 5.0
"""Least time between two lines of progress."""


@dataclass(frozen=True, slots=True)
class RetrainOrder:
    """What to make.

    Attributes:
        campaign: The campaign's JSON.
        decision: The decision's JSON.
        base: Path of the base's safetensors file.
        public: The data, as ``data_source.load_source`` reads it; empty: there are none, and the base is only pruned.
        recipe: Name of the recipe.
        epochs: Passes over the data, at most; 0 leaves the recipe's.
        threads: torch's.
        cache: Folder for the result, under the decision's fingerprint.
        allowed_code: Each ``package.module:factory`` that the person at this machine lets a network be made by.
        vote_total: JSON of the sum that the decision follows from, to steer by; empty draws every image alike.
        outcome_totals: JSON of each sum of outcomes so far, the oldest first, to regroup clusters by.
        steering_record: Where the record of the steering goes.
        is_unlabelled: Whether the base's own answers take the place of the data's labels.
    """

    campaign: str
    decision: str
    base: str
    public: str
    recipe: str
    epochs: int
    threads: int
    cache: str
    allowed_code: tuple[str, ...] = ()
    vote_total: str = ""
    outcome_totals: tuple[str, ...] = ()
    steering_record: str = ""
    is_unlabelled: bool = False


def epoch_teller(what: str, num_epochs: int) -> Callable[[int], None]:
    """Something to call with the number of epochs done: tells on stderr how far it is, and the time left."""
    start_s, told_s = time.monotonic(), 0.0

    def tell(done: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - max(told_s, start_s) < TELL_S and done < num_epochs:
            return
        told_s = now_s
        left_s = (now_s - start_s) / max(1, done) * max(0, num_epochs - done)
        words = f"about {in_words(left_s)} left" if left_s else f"done in {in_words(now_s - start_s)}"
        print(f"{what}: epoch {done} of {num_epochs}, {words}", file=sys.stderr, flush=True)  # noqa: T201 - progress

    return tell


def retrain(order: RetrainOrder) -> Path:
    """Carry out ``order``; returns the model's file.

    Raises:
        InputError: Data or base cannot be used (the user's to mend).
    """
    from prunefleet_edge.ranking import masks_by_order
    from prunefleet_trainer.public import prune_base

    use_threads(order.threads)
    campaign = read_document(order.campaign.encode(), Campaign)
    decision = read_document(order.decision.encode(), Decision)
    masks, base = masks_by_order(decision.prior, decision.widths), _read_base(Path(order.base))
    if order.public:
        model = _retrained(order, campaign, decision, base, masks)
    else:
        model = prune_base(campaign.model, base, masks, layout=campaign.layout, allowed_code=order.allowed_code)
    return ModelFolder(Path(order.cache)).save(cache_key(decision), model)


def cache_key(decision: Decision) -> str:
    """Under what its slim base is kept: of another campaign the same decision may be steered in another way."""
    return digest(canonical_bytes(decision))


def _retrained(
    order: RetrainOrder, campaign: Campaign, decision: Decision, base: bytes, masks: Sequence[BoolArray]
) -> bytes:
    from prunefleet_edge.campaign_networks import load_base
    from prunefleet_edge.data_source import load_source
    from prunefleet_edge.models import parse_spec
    from prunefleet_edge.models.weights import join_networks
    from prunefleet_trainer.public import labelled_by, retrain_slim_base
    from prunefleet_trainer.recipes import public_recipes

    spec = parse_spec(campaign.model)
    public = load_source(order.public, spec, "trainer").samples
    if order.is_unlabelled:
        public = labelled_by(load_base(campaign, base, order.allowed_code), public)
    recipe = public_recipes(RecipeName(order.recipe), spec).with_epochs(order.epochs or None).slim_base
    seed = int(decision.fingerprint[:8], 16)  # the same decision and data give the same slim base
    networks, draws = [], _steered(order, campaign, decision, base, public)
    for number, weights_N in enumerate(draws, start=1):
        which = f", network {number} of {len(draws)}" if len(draws) > 1 else ""
        words = f"retraining level {decision.level + 1} on {len(public)} public images{which}"
        network = retrain_slim_base(
            campaign.model,
            base,
            masks,
            public,
            recipe,
            seed,
            weights_N,
            on_epoch=epoch_teller(words, recipe.epochs),
            layout=campaign.layout,
            allowed_code=order.allowed_code,
        )
        networks.append(network)
    return join_networks(networks)


def _steered(
    order: RetrainOrder, campaign: Campaign, decision: Decision, base: bytes, public: Samples
) -> Sequence[Tensor | None]:
    """For each network how often each public image is drawn, once the record is written; None draws all alike."""
    from prunefleet_trainer.steering import steer

    if not order.vote_total:
        return [None]
    vote_total = read_document(order.vote_total.encode(), Total)
    outcome_totals = [read_document(text.encode(), Total) for text in order.outcome_totals]
    steering = steer(campaign, decision, vote_total, base, public, order.allowed_code, outcome_totals)
    if steering is None:
        return [None]
    write_document(Path(order.steering_record), steering.record)
    print(steering_words(steering.record), file=sys.stderr, flush=True)  # noqa: T201 - progress
    return steering.draws


def _read_base(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: expected a safetensors file, got {error.strerror}"
        raise InputError(msg) from None


def _end_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Carry out the order in the file ``arguments[0]``; returns the exit code."""
    _end_with_parent()
    try:
        retrain(read_document_file(Path(arguments[0]), RetrainOrder))
    except PrunefleetError as error:
        sys.stdout.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
