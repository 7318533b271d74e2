"""How to get from a dense network to a slim one, as data; and the plans by name. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from prunefleet_edge.recipes import Recipe
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.limits import NO_LIMITS, Limits

CRITERIA = ("l1", "l2", "norm-scale", "fpgm", "taylor", "activation", "random")
"""What a channel can be scored by; ``taylor`` and ``activation`` look at data, ``random`` is the control."""
RANKINGS = ("global", "per-layer")
"""``global`` ranks the channels of all groups against each other; ``per-layer`` takes the same share of each group."""
PLANS = ("default", "adapt", "adapt-agnostic", "iterative")
ITERATIVE_STEPS = 5


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """How to get from a dense network to a slim one.

    Attributes:
        retrain: How the slim network is trained. In several steps its epochs are shared out, see
            :func:`shared_out`.
        criterion: What a channel's score is, one of :data:`CRITERIA`.
        ranking: One of :data:`RANKINGS`.
        limits: What pruning must leave alone, in terms of the dense network.
        is_per_cost: Divide scores by what a channel saves; of no effect on ``per-layer``.
        num_steps: 1 prunes in one go; more prune by equal factors of the cost, scoring anew after each.
        fine_tune: How the dense network is trained before it is scored; None takes it as it is.

    Raises:
        ConfigError: A name is unknown or there are more steps than epochs to share out (the user's to mend).
    """

    retrain: Recipe
    criterion: str = "taylor"
    ranking: str = "global"
    limits: Limits = NO_LIMITS
    is_per_cost: bool = True
    num_steps: int = 1
    fine_tune: Recipe | None = None

    def __post_init__(self) -> None:
        check_criterion(self.criterion)
        if self.ranking not in RANKINGS:
            msg = f"ranking: expected one of {', '.join(RANKINGS)}, got {self.ranking!r}"
            raise ConfigError(msg)
        if not 1 <= self.num_steps <= self.retrain.epochs:
            msg = (
                f"pruning steps: expected 1 to {self.retrain.epochs}, the epochs there are to share out between them, "
                f"got {self.num_steps}"
            )
            raise ConfigError(msg)


def plan_named(name: str, recipe: Recipe) -> PruningPlan:
    """The plan of that name.

    - ``default``: fine-tune, Taylor saliency per cost over all groups, prune in one go, retrain.
    - ``iterative``: the same in five steps.
    - ``adapt``: data-aware pruning and retraining of Rajagopal & Bouganis 2020 (arXiv 2006.08554) with the rates their
      configuration files give for ResNet-20: five epochs of fine-tuning, L1, 25 of retraining; two filters stay.
    - ``adapt-agnostic``: their control: L1 of the network as it is, 30 epochs of retraining.

    Args:
        name: One of :data:`PLANS`.
        recipe: Every training of ``default`` and ``iterative``; the paper's plans take from it what the paper does not
            say or the device needs: augmentation, micro-batches, memory format.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    plans: dict[str, Callable[[Recipe], PruningPlan]] = {
        "default": lambda recipe: PruningPlan(recipe, fine_tune=recipe),
        "iterative": lambda recipe: PruningPlan(
            recipe, fine_tune=recipe, num_steps=min(ITERATIVE_STEPS, recipe.epochs)
        ),
        "adapt": lambda recipe: _of_the_paper(
            _paper_recipe(recipe, 25, ((0, 1e-2), (10, 1e-3), (20, 1e-4))), _paper_recipe(recipe, 5, ((0, 1e-3),))
        ),
        "adapt-agnostic": lambda recipe: _of_the_paper(
            _paper_recipe(recipe, 30, ((0, 1e-2), (10, 1e-3), (20, 1e-4))), None
        ),
    }
    if name not in plans:
        msg = f"plan: expected one of {', '.join(PLANS)}, got {name!r}"
        raise ConfigError(msg)
    return plans[name](recipe)


def _of_the_paper(retrain: Recipe, fine_tune: Recipe | None) -> PruningPlan:
    limits = Limits(min_keep=2)
    return PruningPlan(retrain, criterion="l1", limits=limits, is_per_cost=False, fine_tune=fine_tune)


def _paper_recipe(recipe: Recipe, epochs: int, rate_steps: tuple[tuple[int, float], ...]) -> Recipe:
    return replace(
        recipe,
        epochs=epochs,
        patience=epochs + 1,  # to the end: the best epoch is taken afterwards
        learning_rate=rate_steps[0][1],
        rate_steps=rate_steps,
        batch_size=128,
        weight_decay=1e-4,
        momentum=0.9,
        held_out_ratio=0.2,
        label_smoothing=0.0,
        min_steps=0,
    )


def shared_out(recipe: Recipe, num_steps: int) -> list[Recipe]:
    """The retraining of each step; their epochs add up to the recipe's.

    Half of the epochs are shared evenly by all steps but the last, rounded down, at least one each; the last step,
    whose network is kept, gets the rest. Rates by epoch are compressed, the least number of steps shared likewise.
    """
    if num_steps == 1:
        return [recipe]
    short = max(1, recipe.epochs // (2 * (num_steps - 1)))
    epochs = [short] * (num_steps - 1)
    return [_shortened(recipe, part) for part in (*epochs, recipe.epochs - sum(epochs))]


def _shortened(recipe: Recipe, epochs: int) -> Recipe:
    share = epochs / recipe.epochs
    steps = tuple((math.ceil(first * share), rate) for first, rate in recipe.rate_steps)
    return replace(recipe, epochs=epochs, rate_steps=steps, min_steps=math.ceil(recipe.min_steps * share))


def check_criterion(name: str) -> None:
    """Refuse a name without a criterion.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    if name not in CRITERIA:
        msg = f"criterion: expected one of {', '.join(CRITERIA)}, got {name!r}"
        raise ConfigError(msg)
