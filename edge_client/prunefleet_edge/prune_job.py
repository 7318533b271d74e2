"""Pruning one network on this device, with no coordinator at all: fine-tune, prune, retrain, and keep the floor.

Killed at any moment, the same command goes on where it stood (``phases``). The images that decide are never trained on,
and what is reported of them is called what it is: optimistic.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.local_images import LocalImages
from prunefleet_edge.phases import Phases
from prunefleet_edge.prune_result import Try
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.pruning_plan import PruningPlan
from prunefleet_edge.schedule import prune_and_retrain
from prunefleet_edge.search import DEFAULT_RATIOS, LevelSearch
from prunefleet_edge.step_progress import StepProgress
from prunefleet_edge.tracing import Trace
from prunefleet_edge.training import train
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.layout import WidthCost
from prunefleet_shared.limits import narrowest_widths


@dataclass(frozen=True, slots=True)
class Subject:
    """The network to be pruned.

    Attributes:
        model_spec: Its specification, as text.
        base: As it came, in eval mode.
        example: Two samples to trace with.
        traced: Its channel groups; those that cannot go are frozen.
        table: What widths cost.
    """

    model_spec: str
    base: nn.Module
    example: Tensor
    traced: Trace
    table: WidthCost

    @property
    def dense_cost(self) -> int:
        """Cost of the unpruned network."""
        return self.table.cost(self.traced.layout.dense_widths)

    def cost_ratio(self, candidate: Candidate) -> float:
        """What is left of the cost."""
        return self.table.cost([int(mask.sum()) for mask in candidate.masks]) / self.dense_cost


class PruneJob:
    """One network, one device's images, one plan.

    Args:
        subject: What to prune; public.
        images: What to learn from and decide by.
        plan: How; public.
        seed: Of order and augmentation.
        phases: Where it stands on the disk.
        progress: Who is told.
    """

    def __init__(
        self,
        subject: Subject,
        images: LocalImages,
        plan: PruningPlan,
        seed: int,
        phases: Phases,
        progress: StepProgress,
    ) -> None:
        self.subject, self._images, self.plan = subject, images, plan
        self._seed, self._phases, self._progress = seed, phases, progress
        self._dense: nn.Module | None = None

    def dense(self) -> nn.Module:
        """The dense network, fine-tuned on this device's images if the plan says so."""
        if self._dense is None:
            self._dense = self._fine_tuned()
        return self._dense

    def _fine_tuned(self) -> nn.Module:
        recipe, model = self.plan.fine_tune, copy.deepcopy(self.subject.base)
        if recipe is None:
            return model
        checkpoint = replace(self._phases.checkpoint("fine-tune"), keeps_result=True)
        tell = self._progress.phase("fine-tuning the dense network")
        return train(model, self._images.fit, recipe, self._seed, checkpoint=checkpoint, on_step=tell)

    def floor(self, drop: float) -> float:
        """The accuracy that must be kept: the better of the dense network as it came and fine-tuned, less ``drop``."""
        return max(accuracy(model, self._images.gate) for model in (self.subject.base, self.dense())) - drop

    def at(self, removed_ratio: float) -> Candidate:
        """The network with that fraction of its cost removed, retrained.

        Raises:
            ConfigError: The limits do not let so much go (the user's to mend).
        """
        words = f"{removed_ratio:.0%} of the {self.subject.table.unit} removed"
        phases = self._phases.within(f"remove-{removed_ratio:.3f}")
        return prune_and_retrain(
            self.dense(),
            self.subject.example,
            self.subject.traced,
            self.subject.table,
            self._budget(removed_ratio),
            self._images.fit,
            replace(self.plan, fine_tune=None),
            self._seed,
            checkpoint_for=phases.checkpoint,
            on_step=self._progress.phase(words),
        )

    def search(self, floor: float) -> tuple[Candidate, tuple[Try, ...]]:
        """The smallest network that keeps ``floor`` on the gate's images, and all sizes that were tried.

        Raises:
            ConfigError: The limits let nothing go (the user's to mend).
            InputError: None does.
        """
        search, tries, best = LevelSearch(self._reachable()), list[Try](), dict[float, Candidate]()
        while (ratio := search.next_ratio()) is not None:
            one, candidate = self._try(ratio, floor)
            tries.append(one)
            best[ratio] = candidate
            self._progress.say(f"{ratio:.0%} removed: accuracy {one.gate_accuracy:.1%}, floor {floor:.1%}")
            search.tell(ratio, one.is_floor_kept)
        if search.best is None:
            raise InputError(_none_keeps(floor, tries))
        return best[search.best], tuple(tries)

    def _reachable(self) -> tuple[float, ...]:
        """Fractions of the cost that the limits let go."""
        layout, table = self.subject.traced.layout, self.subject.table
        smallest = table.cost(narrowest_widths(layout, self.plan.limits))
        ratios = tuple(ratio for ratio in DEFAULT_RATIOS if self._budget(ratio) >= smallest)
        if not ratios:
            msg = (
                f"limits: min_keep, round_to and the skipped groups leave at least {smallest} of "
                f"{self.subject.dense_cost} {table.unit}, and the search begins with "
                f"{DEFAULT_RATIOS[0]:.0%} removed; relax them"
            )
            raise ConfigError(msg)
        return ratios

    def _budget(self, removed_ratio: float) -> int:
        return int(self.subject.dense_cost * (1 - removed_ratio))

    def _try(self, ratio: float, floor: float) -> tuple[Try, Candidate]:
        candidate = self.at(ratio)
        reached = accuracy(candidate.model, self._images.gate)
        return Try(ratio, self.subject.cost_ratio(candidate), reached, reached >= floor), candidate


def _none_keeps(floor: float, tries: list[Try]) -> str:
    best = max(one.gate_accuracy for one in tries)
    return (
        f"no smaller network keeps an accuracy of {floor:.1%} on the images that decide; the best reached {best:.1%}; "
        "allow a larger --max-drop, give more images or more --epochs, or ask for a size with --remove"
    )
