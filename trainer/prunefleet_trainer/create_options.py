"""Options of ``campaign create`` that take more than a line to explain."""

from __future__ import annotations

from typing import Annotated

import typer

from prunefleet_shared.steering_terms import MAX_CLUSTERS

ClassOption = Annotated[
    list[str],
    typer.Option(
        "--class",
        metavar="CLASS[=LEVELS]",
        help="Whom it is for: 1 to 32 of a-z 0-9 -; again for more classes, each a campaign: --class phone=0.5,0.25.",
    ),
]
CombinationOption = Annotated[
    str, typer.Option(help="How cohorts' sums become one: sum; median or trimmed_mean stand a few bad cohorts.")
]
PrivacyOption = Annotated[
    str, typer.Option(help="sum: the coordinator learns only sums; sum+dp: noisy ones; plain: everything.")
]
MaxLossOption = Annotated[
    float | None,
    typer.Option(help="Judge decisions: accuracy that a device may lose against its dense copy, such as 0.05."),
]
MaxWorseOption = Annotated[float, typer.Option(help="With --max-loss: share of devices that may lose more.")]
SearchOption = Annotated[
    str, typer.Option(help="With --max-loss: descend the levels until one misses the floor, or bisect them.")
]
CanaryOption = Annotated[
    int, typer.Option(help="With --max-loss: devices that try a decision before others do; 0: the whole cohort.")
]
CanaryCohortsOption = Annotated[int, typer.Option(help="Cohorts of so many canaries; three or more stand a bad one.")]
SteeringOption = Annotated[
    bool, typer.Option(help="Ask for lift masks, which say what the fleet sees; needs --public.")
]
ClustersOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=MAX_CLUSTERS,
        help="Parts of the fleet that get a network of their own, beside the one for all; owners must allow it.",
    ),
]
UnlabelledOption = Annotated[
    bool, typer.Option("--unlabelled", help="Public labels are not known: the base's own answers take their place.")
]
