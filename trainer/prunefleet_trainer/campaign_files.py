"""What the operator prepares before a campaign: the base, its layout, its cost table, and an order for want of a fleet.

The coordinator has no torch; everything it needs from the network is in the plain data made here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunefleet_edge.models import ModelSpec, example_input
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.ranking import keep_masks, narrowest_widths, rank_widths
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import cost_table
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import Campaign, CohortPolicy, Level, PrivacyTerms
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import MAX_LEVELS, CostTable, Layout
from prunefleet_shared.masks import BoolArray, FloatArray, descending_order
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base network as plain data.

    Attributes:
        model: Its specification, such as ``resnet8/1x12x12/10``.
        weights: The bytes of its safetensors file.
        layout: Its channel groups.
        macs: Cost of any widths in multiply-accumulates per sample.
        parameters: The same in parameters.
        l1_scores_C: Mean |w| per channel: the public order, and what the agnostic baseline prunes by.
    """

    model: str
    weights: bytes
    layout: Layout
    macs: CostTable
    parameters: CostTable
    l1_scores_C: FloatArray

    @property
    def public_order(self) -> tuple[tuple[int, ...], ...]:
        """For every group, its channels by falling L1."""
        parts = (descending_order(self.l1_scores_C[part]) for part in self.layout.slices())
        return tuple(tuple(int(channel) for channel in order) for order in parts)

    def table(self, unit: str) -> CostTable:
        """The cost table of ``unit``, ``"macs"`` or ``"parameters"``.

        Raises:
            ConfigError: No such unit.
        """
        tables = {"macs": self.macs, "parameters": self.parameters}
        if unit not in tables:
            msg = f"budget unit {unit!r} is unknown; expected one of {', '.join(tables)}"
            raise ConfigError(msg)
        return tables[unit]


def describe_base(spec: ModelSpec, model: nn.Module) -> BaseFiles:
    """Trace ``model``, try out what can be pruned safely, and write down all that others need to know of it.

    Raises:
        LayoutError: It cannot be traced, or no channel group of it is safe to prune.
    """
    example = example_input(spec)
    traced = onboard(model, example)
    macs, parameters = (cost_table(model, example, traced, unit) for unit in ("macs", "parameters"))
    scores = l1_saliency(model, traced)
    return BaseFiles(str(spec), save_weights(model), traced.layout, macs, parameters, scores)


def make_campaign(  # noqa: PLR0913 - the terms of a campaign, by name
    files: BaseFiles,
    *,
    campaign_id: str,
    device_class: str,
    levels_permille: Sequence[int],
    cohort: CohortPolicy,
    decision_key: bytes,
    slim_base_key: bytes,
    privacy: PrivacyTerms,
    noise: NoiseWish | None = None,
    budget_unit: str = "macs",
    acceptance: Acceptance | None = None,
) -> Campaign:
    """The campaign document, to be signed.

    Args:
        files: The base.
        campaign_id: 32 hex digits.
        device_class: Whom it is for.
        levels_permille: What may remain of the dense cost at each level, in thousandths, falling; 1 to 8 levels.
        cohort: Whom a session waits for.
        decision_key: The coordinator's public key, DER.
        slim_base_key: The trainer's.
        privacy: What the coordinator may learn; its noise is filled in here.
        noise: In mode ``sum+dp``, how much.
        budget_unit: ``"macs"`` or ``"parameters"``.
        acceptance: By what its decisions are judged; None: nothing is.

    Raises:
        ConfigError: Levels or unit are out of range (the operator's to mend).
    """
    _check_levels(levels_permille)
    table = files.table(budget_unit)
    dense = table.cost(files.layout.dense_widths)
    smallest = table.cost(narrowest_widths(files.layout))
    if dense * levels_permille[-1] // 1000 < smallest:
        wanted = f"{levels_permille[-1]} / 1000 of {dense} {table.unit}"
        msg = f"levels: {wanted} cannot be met: the smallest widths cost {smallest}"
        raise ConfigError(msg)
    return Campaign(
        campaign_id=campaign_id,
        device_class=device_class,
        privacy=_with_noise(privacy, noise, files.layout, len(levels_permille), acceptance),
        model=files.model,
        base_digest=digest(files.weights),
        layout=files.layout,
        cost_table=table,
        levels=tuple(Level(permille, dense * permille // 1000) for permille in levels_permille),
        public_order=files.public_order,
        cohort=cohort,
        decision_key=decision_key.hex(),
        slim_base_key=slim_base_key.hex(),
        acceptance=acceptance,
    )


def _check_levels(levels_permille: Sequence[int]) -> None:
    falling = all(a > b for a, b in itertools.pairwise(levels_permille))
    if not 1 <= len(levels_permille) <= MAX_LEVELS or not falling or not all(0 < p < 1000 for p in levels_permille):
        msg = (
            f"levels: expected 1 to {MAX_LEVELS} falling fractions between 0 and 1, got {list(levels_permille)} / 1000"
        )
        raise ConfigError(msg)


def _with_noise(
    privacy: PrivacyTerms, wish: NoiseWish | None, layout: Layout, num_levels: int, acceptance: Acceptance | None
) -> PrivacyTerms:
    if wish is None:
        return privacy
    return replace(privacy, noise=make_noise_terms(layout, num_levels, wish, acceptance))


def agnostic_masks(files: BaseFiles, table: CostTable, budget: int) -> list[BoolArray]:
    """What the data-agnostic baseline keeps: global L1 order of the base, as in ADaPT (Rajagopal & Bouganis 2020)."""
    widths = rank_widths(files.layout, table, files.l1_scores_C, budget)
    return keep_masks(files.layout, files.l1_scores_C, widths)
