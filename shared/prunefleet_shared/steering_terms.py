"""What a campaign that steers tells its devices, so that they can say where their data differ from public data."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.layout import Layout

USE_UNIT = 1 << 16
"""Steps of a unit of activation, as campaigns state a channel's use."""
MAX_CLUSTERS = 8
"""Parts of a fleet that get a network of their own, at most."""
MAX_USE = 1 << 48
"""The largest number of such steps: activations of any network that can be trained are far below."""


@dataclass(frozen=True, slots=True)
class SteeringTerms:
    """How much public data use each channel of the base.

    A channel's *use* is the mean size of its activations, where it could be switched off; here in units of
    1 / :data:`USE_UNIT`.

    Attributes:
        usual_uses: Mean over public classes, one per channel, group by group; 0 to :data:`MAX_USE`.
        use_spreads: Standard deviation over public classes; 1 to :data:`MAX_USE`.
        num_clusters: Parts of the fleet that get a network of their own, beside the one for all; 1: there are no parts.
    """

    usual_uses: tuple[int, ...]
    use_spreads: tuple[int, ...]
    num_clusters: int = 1

    @property
    def num_networks(self) -> int:
        """Networks that a slim base has at most: with clusters the one for all, and one for each."""
        return 1 if self.num_clusters == 1 else 1 + self.num_clusters


def why_steering_impossible(layout: Layout, terms: SteeringTerms | None) -> str | None:
    """Why no lift mask can be made by these terms; None if one can, or none is asked for."""
    if terms is None:
        return None
    if len(terms.usual_uses) != layout.num_channels or len(terms.use_spreads) != layout.num_channels:
        sizes = f"{len(terms.usual_uses)} and {len(terms.use_spreads)}"
        return f"steering terms need a use and a spread for each of {layout.num_channels} channels, got {sizes}"
    if min(terms.usual_uses) < 0 or min(terms.use_spreads) < 1 or max(*terms.usual_uses, *terms.use_spreads) > MAX_USE:
        return f"uses are 0 to {MAX_USE}, their spreads at least 1"
    if not 1 <= terms.num_clusters <= MAX_CLUSTERS:
        return f"a campaign has 1 to {MAX_CLUSTERS} clusters, this one {terms.num_clusters}"
    return None
