"""What a campaign promises its devices, in numbers and in plain words: what, to whom, as long as what, and what not."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from prunefleet_shared.campaign import PLAIN, SUM_DP, Campaign, NoiseTerms
from prunefleet_shared.lanes import LaneTable
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.noise import honest_devices, std_per_lane
from prunefleet_shared.privacy_budget import claimed_epsilon
from prunefleet_shared.secure_sum.context import most_colluders, threshold

WEAK_EPSILON = 5.0
"""From here on the odds may change more than a hundredfold: the report says that this is weak."""


@dataclass(frozen=True, slots=True)
class CohortPromise:
    """What a private sum stands, for one size of its roster.

    Attributes:
        num_devices: Devices in the roster.
        threshold: Devices that must act together to open a sum.
        max_colluders: Devices that may tell the coordinator all they know, without it learning more than the sum.
        max_dropouts: Devices that may vanish on the way, and there is a sum still.
    """

    num_devices: int
    threshold: int
    max_colluders: int
    max_dropouts: int


@dataclass(frozen=True, slots=True)
class NoisePromise:
    """What noise adds to it.

    Attributes:
        epsilon: Promised for the whole campaign, a device's data against coins.
        real_epsilon: What the signed noise comes to; at most ``epsilon``, or the campaign promises too much.
        replace_one_epsilon: The same noise, between any two data sets of a device.
        delta_power: Delta of all three is ``10 ** -delta_power``.
        num_outcomes: Outcome sums covered, beside one vote sum; then the campaign stops.
        honest_devices: Devices that neither collude nor are made up, of any sum: the promise counts on as many.
        channel_std: Standard deviation of the noise in one channel's votes, full cohort, in votes.
        width_std: The same for one width option.
        outcome_std: The same for one outcome lane.
    """

    epsilon: float
    real_epsilon: float
    replace_one_epsilon: float
    delta_power: int
    num_outcomes: int
    honest_devices: int
    channel_std: float
    width_std: float
    outcome_std: float


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """Everything there is to say; ``dataclasses.asdict`` of it is JSON.

    Attributes:
        campaign_id: The campaign.
        mode: ``plain``, ``sum`` or ``sum+dp``.
        num_channels: Channels a vote tells apart.
        smallest: The smallest cohort that is summed; None in mode ``plain``.
        largest: The largest one; None in mode ``plain``.
        noise: In mode ``sum+dp`` only.
        is_authority_built_in: Whether the coordinator also issues certificates.
        num_networks: Networks of a slim base, between which devices choose.
    """

    campaign_id: str
    mode: str
    num_channels: int
    smallest: CohortPromise | None
    largest: CohortPromise | None
    noise: NoisePromise | None
    is_authority_built_in: bool
    num_networks: int = 1


def describe(campaign: Campaign, *, is_authority_built_in: bool) -> PrivacyReport:
    """The report of a verified campaign; takes a second at most."""
    cohort, terms = campaign.cohort, campaign.privacy
    is_private = terms.mode != PLAIN
    fewest = max(terms.min_devices, min(campaign.cohort_of(kind).quorum for kind in SessionKind))
    return PrivacyReport(
        campaign_id=campaign.campaign_id,
        mode=terms.mode,
        num_channels=campaign.layout.num_channels,
        smallest=_cohort_promise(fewest, fewest) if is_private else None,
        largest=_cohort_promise(cohort.size, fewest) if is_private else None,
        noise=_noise_promise(campaign, terms.noise) if terms.noise else None,
        is_authority_built_in=is_authority_built_in,
        num_networks=campaign.num_networks,
    )


def _cohort_promise(num_devices: int, fewest: int) -> CohortPromise:
    needed = threshold(num_devices)
    return CohortPromise(num_devices, needed, most_colluders(num_devices), num_devices - max(needed, fewest))


def _noise_promise(campaign: Campaign, terms: NoiseTerms) -> NoisePromise:
    vote, outcome = (campaign.lanes_of(kind) for kind in (SessionKind.VOTE, SessionKind.OUTCOME))
    released, delta = [vote, *[outcome] * terms.num_outcomes], 10.0**-terms.delta_power
    honest = honest_devices(campaign.privacy.min_devices, campaign.cohort.size)

    def std(table: LaneTable, lane: int) -> float:
        one = float(std_per_lane(table, terms.multiplier_milli, honest)[lane])
        return round(one * math.sqrt(campaign.cohort.size), 1)

    return NoisePromise(
        epsilon=terms.epsilon_milli / 1000,
        real_epsilon=round(claimed_epsilon(released, terms.multiplier_milli, delta), 4),
        replace_one_epsilon=round(claimed_epsilon(released, terms.multiplier_milli, delta, swapped=True), 4),
        delta_power=terms.delta_power,
        num_outcomes=terms.num_outcomes,
        honest_devices=honest,
        channel_std=std(vote, 0),
        width_std=std(vote, -1),
        outcome_std=std(outcome, 0),
    )


# --- in words --------------------------------------------------------------------------------------------------------

_LINE_LENGTH = 100
_PLAIN = (
    "The coordinator sees what each device says, and which device said it: its mask of channels, its width votes, how"
    " its network did. It keeps only the sum, but that is a promise, not something a device could check.",
    "One vote alone betrays half of the classes in a device's images, or more. Use this mode on one machine, to try.",
)
_SUM = (
    "The coordinator learns sums over cohorts, and nothing else that a device says. This holds against whoever runs the"
    " coordinator or breaks into it, even if it lies to devices, and against other devices."
)
_EXACT = (
    "The sums are exact, and an exact sum says things about single devices:",
    "- What all devices of a cohort have in common, the sum says of each of them.",
    "- Who can guess a device's whole mask can check the guess against the sum. Over 30,000 channels the check was"
    " right every time, even among 1,000 devices; over 500 channels 95 times in 100 among 100 devices, 67 among 1,000"
    f" (area under the curve). Only noise helps: mode {SUM_DP}.",
)
_NETWORKS = (
    "Devices choose among {} networks by their own images. Each downloads all of them; but how many tried, and kept,"
    " which is in the sums of outcomes, and tells about how many see what."
)
_UNPROTECTED = (
    "In every mode: no image, label or weight leaves a device. Not hidden in any: which devices took part, when, and"
    " how long they took. And nothing keeps a device from lying about its votes.",
)
_AUTHORITY_APART = (
    "Certificates come from an authority apart from the coordinator. Who runs both can invent devices, and read a real"
    " one's votes off a cohort of invented ones."
)
_AUTHORITY_BUILT_IN = (
    "CAUTION: this coordinator is its own certificate authority. Whoever runs it could invent devices, fill a cohort"
    " with them and one real device, and read its votes off the sum. So all this holds only against a coordinator that"
    " follows the protocol (honest but curious); run the authority apart to mend it."
)


def privacy_lines(report: PrivacyReport) -> list[str]:
    """The report for people: 10 to 25 lines of at most 100 characters."""
    paragraphs = [f"Campaign {report.campaign_id}: privacy mode {report.mode}."]
    if report.smallest is None or report.largest is None:
        paragraphs += _PLAIN
    else:
        paragraphs += _sum_paragraphs(report.smallest, report.largest)
        paragraphs += _noise_paragraphs(report.noise) if report.noise else _EXACT
        paragraphs += _authority_paragraphs(report)
    if report.num_networks > 1:
        paragraphs.append(_NETWORKS.format(report.num_networks))
    paragraphs += _UNPROTECTED
    return [line for text in paragraphs for line in _wrapped(text)]


def _wrapped(text: str) -> list[str]:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, _LINE_LENGTH, subsequent_indent=indent, break_on_hyphens=False)


def _sum_paragraphs(smallest: CohortPromise, largest: CohortPromise) -> list[str]:
    colluders = _of_either(smallest.max_colluders, smallest, largest.max_colluders, largest)
    needed = _of_either(smallest.threshold, smallest, largest.threshold, largest)
    return [
        _SUM,
        f"- A sum is over {smallest.num_devices} to {largest.num_devices} devices, never fewer.",
        f"- This holds while at most {colluders} devices of a cohort tell the coordinator all they know. (They can"
        " always take their own votes off the sum; what is left is a sum over the others.)",
        f"- It takes {needed} devices to open a sum; a full cohort may lose {largest.max_dropouts} on the way.",
    ]


def _of_either(small: int, smallest: CohortPromise, large: int, largest: CohortPromise) -> str:
    one, other = f"{small} of {smallest.num_devices}", f"{large} of {largest.num_devices}"
    return one if one == other else f"{one}, {other}"


def _noise_paragraphs(noise: NoisePromise) -> list[str]:
    odds, chance = f"{math.exp(noise.real_epsilon):.3g}", f"1 in 10^{noise.delta_power}"
    paragraphs = [
        "Each device adds noise to its votes before it hides them, so even the sum says little about any one of them:",
        f"- Epsilon {noise.real_epsilon:.2f} at delta 10^-{noise.delta_power}, for the whole campaign: one vote and"
        f" {noise.num_outcomes} outcome sums, then it stops. In words: whatever the sums make anybody believe about a"
        f" device's data, the odds are within a factor of {odds} of what they were had it tossed coins instead, but for"
        f" a chance of {chance}.",
        f"- Between any two data sets of a device: epsilon {noise.replace_one_epsilon:.2f}.",
        f"- It counts on {noise.honest_devices} honest devices in every sum, each of which adds its share of noise.",
        f"- The price: in a full cohort, noise moves each channel's votes by {noise.channel_std:g}, each width's by"
        f" {noise.width_std:g} and each outcome count by {noise.outcome_std:g} votes (standard deviation).",
    ]
    if noise.real_epsilon > noise.epsilon:
        paragraphs.append(f"WARNING: the campaign promises epsilon {noise.epsilon:g}; its noise does not keep that.")
    if noise.real_epsilon > WEAK_EPSILON:
        paragraphs.append(f"This is weak: odds that change by a factor of {odds} give much away. Up to 1 is strong.")
    return paragraphs


def _authority_paragraphs(report: PrivacyReport) -> list[str]:
    if not report.is_authority_built_in:
        return [_AUTHORITY_APART]
    if report.noise is None:
        return [_AUTHORITY_BUILT_IN]
    share = f"Among invented devices only its own noise hides a device: 1 part in {report.noise.honest_devices}."
    return [f"{_AUTHORITY_BUILT_IN} {share}"]
