"""The report as one self-contained web page, and both files as written to disk.

The page is made from the :class:`~prunefleet_coordinator.report_model.Report` alone, of a simulation or a real fleet,
loads nothing from anywhere (styles and charts are inside), fits a phone and prints. Words and numbers are escaped; only
our own charts enter as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunefleet_coordinator.report_model import ArmName, PairName, PhaseName, Report, Seed, Wire, report_json
from prunefleet_shared.campaign import SUM_DP
from prunefleet_shared.durations import in_words
from prunefleet_simulation import charts
from prunefleet_simulation.report import PAIRS, build_report
from prunefleet_simulation.results import RunResult

ARM_EXPLANATIONS = {
    "dense": "The unpruned base, fine-tuned on the device.",
    "agnostic": "Pruned by weight norms, retrained on public data; no device's data used.",
    "agnostic_local": "The same, then fine-tuned on the device: the best without a fleet.",
    "local": "Own scores, own pruning, own retraining: a device alone.",
    "fleet_widths": "Own scores and own channels, but as many in each group as the fleet decided.",
    "fleet": "The fleet's shape, retrained, fine-tuned on the device, kept only where the device's own test agrees.",
}
WITHOUT_RETRAINING = {
    "agnostic": "Pruned by weight norms, not retrained; no device's data used.",
    "agnostic_local": "The device's own copy, pruned by the base's weight norms, fine-tuned: the best without a fleet.",
    "fleet": "The device's own copy, pruned to the fleet's widths by the fleet's order and its own scores together, "
    "fine-tuned, kept only where the device's own test agrees.",
}
"""What is different about arms where no pruned network is retrained on public data."""
EFFECT_HEADINGS = {
    "added": "The fleet helped",
    "nothing": "The fleet made no measurable difference",
    "hurt": "The fleet did harm",
}
PHASE_HEADINGS: dict[PhaseName, str] = {
    "voting": "The fleet is voting",
    "retraining": "Decided; the trainer's network is awaited",
    "measuring": "Decided; the fleet is measuring",
    "rolling_out": "Promoted by its canaries; the rollout is measured",
    "completed": "The campaign is completed",
    "failed": "The campaign failed: too few devices took part in a round",
    "stopped": "The campaign was stopped by the operator",
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its words.

    Attributes:
        key: Names the figure within the page.
        title: What it shows, with the number that matters.
        caption: How to read it, one or two sentences.
        svg: The ``<svg>`` element.
    """

    key: str
    title: str
    caption: str
    svg: Markup


def write_report(
    run: RunResult, out_dir: Path, *, replay_command: str | None = None, base_weight_bytes: int | None = None
) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out_dir`` (made if missing); returns the page's path.

    The arguments after ``out_dir`` are those of :func:`~prunefleet_simulation.report.build_report`, as are the errors.
    """
    report = build_report(run, replay_command=replay_command, base_weight_bytes=base_weight_bytes)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "report.json").write_text(report_json(report), encoding="utf-8")
    page_path = out_dir / "report.html"
    page_path.write_text(render_page(report), encoding="utf-8")
    return page_path


def render_page(report: Report) -> str:
    """The page's HTML; the same report gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("prunefleet_simulation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, points=_points, bytes=charts.format_bytes, duration=in_words, digits=_digits
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        charts={chart.key: chart for chart in _charts(report)},
        arm_labels=charts.ARM_LABELS,
        arm_explanations=_arm_explanations(report),
        pairs=PAIRS,
        heading=_heading(report),
        num_devices=_devices_per_seed(report.seeds or []),
        num_measured=sum(part.outcome is not None for part in report.rounds),
        num_accepted=_num_accepted(report),
        num_finished=_num_finished(report),
        is_noisy=_is_noisy(report),
    )


def _arm_explanations(report: Report) -> dict[str, str]:
    is_blended = report.setting.is_retrained is False
    return ARM_EXPLANATIONS | (WITHOUT_RETRAINING if is_blended else {})


def _heading(report: Report) -> str:
    if report.verdict:
        return EFFECT_HEADINGS[report.verdict.effect]
    return PHASE_HEADINGS[report.fleet.phase] if report.fleet else "What the fleet decided"


def _charts(report: Report) -> Iterator[Chart]:
    if report.arms and report.devices:
        yield _accuracy_chart(report)
    if report.arms_paired and report.devices:
        yield _gain_chart(report)
    if report.decisions:
        yield _topology_chart(report)
    if report.wire:
        yield _bytes_chart(report.wire, _devices_per_seed(report.seeds or []))
    if any(part.outcome for part in report.rounds):
        yield _outcome_chart(report)
    if report.seeds and len(report.seeds) > 1:
        yield _time_chart(report.seeds, report.wall_s or 0.0)


def _accuracy_chart(report: Report) -> Chart:
    arms, devices = report.arms or {}, report.devices or []
    named: dict[ArmName, str] = {"fleet": "with the fleet", "agnostic_local": "without", "dense": "dense"}
    shown = ", ".join(f"{words} {_percent(arms[name].accuracy_mean)}" for name, words in named.items() if name in arms)
    return Chart(
        "accuracy",
        f"Accuracy: {shown}",
        "A dot is a device under one seed, on images that neither training nor the gate saw; the bar is the 95 % "
        "interval of the mean. Every arm but the dense one runs at the same cost.",
        Markup(charts.accuracy_by_arm(arms, devices)),  # noqa: S704 - our own drawing
    )


def _gain_chart(report: Report) -> Chart:
    paired = report.arms_paired or {}
    wanted: tuple[PairName, ...] = ("fleet_minus_agnostic_local", "fleet_minus_local")
    shown = [(arm, paired[name]) for name, arm in PAIRS if name in wanted and name in paired]
    worse = " and ".join(f"{_percent(pair.share_worse)} ({charts.ARM_LABELS[arm]})" for arm, pair in shown)
    return Chart(
        "gains",
        f"Devices that lost more than half a point: {worse}",
        "Accuracy with the fleet's network minus accuracy without, device by device; the dashed line is the mean.",
        Markup(charts.gains(report.devices or [], shown)),  # noqa: S704 - our own drawing
    )


def _topology_chart(report: Report) -> Chart:
    seed = report.seeds[0].seed if report.seeds else None
    decisions = [decision for decision in report.decisions if decision.seed == seed]
    rounds = [part for part in report.rounds if part.seed == seed]
    tallies = [tally for tally in report.topology if tally.seed == seed]
    kept = ", then ".join(f"{sum(decision.widths):,}" for decision in decisions)
    which = "" if seed is None else f"; seed {seed}"
    return Chart(
        "topology",
        f"The decided network keeps {kept} of {sum(t.num_channels for t in tallies):,} channels",
        "A row per channel group: outlined what the dense network has, filled what stays. The darker a cell, the "
        f"surer the fleet is of that channel. Rows grow with the square root of the width{which}.",
        Markup(charts.topology(decisions, tallies, [part.level_permille for part in rounds])),  # noqa: S704
    )


def _bytes_chart(wire: Wire, num_devices: float) -> Chart:
    return Chart(
        "bytes",
        f"{charts.format_bytes(wire.up_bytes_per_device_session)} up per device and session",
        "Protocol messages as serialised. A device sends no weights; training by federated averaging would send "
        "every weight up, every round.",
        Markup(charts.bytes_by_direction(wire, num_devices)),  # noqa: S704 - our own drawing
    )


def _outcome_chart(report: Report) -> Chart:
    over = "devices and seeds" if report.seeds else "devices"
    noisy = " Noise hides each device: small bars may be noise alone." if _is_noisy(report) else ""
    return Chart(
        "outcomes",
        _outcome_heading(report),
        f"What the outcome sessions say, in sums over {over}: accuracy gained on the gate's images, and measured "
        f"latency.{noisy}",
        Markup(charts.outcomes(report.rounds)),  # noqa: S704 - our own drawing
    )


def _outcome_heading(report: Report) -> str:
    if _is_noisy(report):
        return "What trying the fleet's network came to, with the noise that hides each device"
    return f"The gate kept the fleet's network {_num_accepted(report)} times out of {_num_finished(report)}"


def _time_chart(seeds: Sequence[Seed], wall_s: float) -> Chart:
    return Chart(
        "time",
        f"{in_words(wall_s)} for {len(seeds)} seeds",
        "Wall time of each seed: training of all arms, decisions and evaluation, on the machine named below.",
        Markup(charts.time_by_seed(seeds)),  # noqa: S704 - our own drawing
    )


def _is_noisy(report: Report) -> bool:
    return report.setting.privacy_mode == SUM_DP


def _num_accepted(report: Report) -> int:
    return sum(part.outcome.accepted for part in report.rounds if part.outcome)


def _num_finished(report: Report) -> int:
    return sum(part.outcome.finished for part in report.rounds if part.outcome)


def _devices_per_seed(seeds: Sequence[Seed]) -> float:
    return sum(seed.num_devices for seed in seeds) / max(1, len(seeds))


def _percent(fraction: float, decimals: int = 1) -> str:
    return f"{100 * fraction:.{decimals}f} %"


def _points(fraction: float) -> str:
    # In a column of numbers a hyphen is easily overlooked.
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def _digits(count: float) -> str:
    return f"{count:,.0f}"
