"""Charts: well-formed, the same bytes for the same numbers, no outside references, sizes that fit a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from prunefleet_coordinator.report_model import Report
from prunefleet_simulation import charts
from prunefleet_simulation.report import build_report
from prunefleet_simulation.results import RunResult


@pytest.fixture(scope="module")
def report(run: RunResult) -> Report:
    return build_report(run, base_weight_bytes=1_080_000)


def _draw(report: Report) -> dict[str, str]:
    assert report.arms is not None
    assert report.arms_paired is not None
    assert report.devices is not None
    local = ("local", report.arms_paired["fleet_minus_local"])
    first = [d for d in report.decisions if d.seed == 0]
    return {
        "accuracy": charts.accuracy_by_arm(report.arms, report.devices),
        "gains": charts.gains(report.devices, [local]),
        "topology": charts.topology(first, [t for t in report.topology if t.seed == 0], [500, 300]),
        "bytes": charts.bytes_by_direction(report.wire, 12),
        "outcomes": charts.outcomes(report.rounds),
        "time": charts.time_by_seed(report.seeds),
    }


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, str]:
    return _draw(report)


def test_same_input_same_bytes(report: Report, drawn: dict[str, str]) -> None:
    assert _draw(report) == drawn


def test_every_chart_is_one_svg_element_without_outside_references(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314 - our own output
        assert not re.search(r'(?:href|src)="(?!#)', svg)
        assert "<image" not in svg
        assert "<metadata" not in svg


def test_ids_are_unique_over_all_charts(drawn: dict[str, str]) -> None:
    ids = [found for svg in drawn.values() for found in re.findall(r'\sid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    references = {found for svg in drawn.values() for found in re.findall(r'(?:url\(#|href="#)([^")]+)', svg)}
    assert references <= set(ids)


def test_numbers_stand_beside_the_marks(report: Report, drawn: dict[str, str]) -> None:
    assert report.arms is not None
    assert f"{100 * report.arms['fleet'].accuracy_mean:.1f} %" in drawn["accuracy"]
    assert "620 B" in drawn["bytes"]
    assert "1.08 MB" in drawn["bytes"]
    assert "59 s" in drawn["time"]
    for decision in report.decisions[:2]:
        for width, tally in zip(decision.widths, report.topology, strict=False):
            assert f"{width}/{tally.num_channels}" in drawn["topology"]


@pytest.mark.parametrize("num_groups", [1, 30])
def test_topology_of_few_and_many_groups(make_run, num_groups: int) -> None:
    report = build_report(make_run(num_seeds=1, num_groups=num_groups))
    svg = charts.topology(report.decisions, report.topology, [500, 300])
    assert svg.count("conv1") == num_groups
    assert len(svg) < 1_000_000


def test_a_group_shows_as_many_cells_as_it_keeps(make_run) -> None:
    report = build_report(make_run(num_seeds=1, num_groups=1))
    svg = charts.topology(report.decisions, report.topology, [500, 300])
    cells = re.findall(r"stroke: #ffffff; stroke-width: 0\.3", svg)
    assert len(cells) == sum(decision.widths[0] for decision in report.decisions)


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (620, "620 B"), (999.6, "1 kB"), (9200, "9.2 kB"), (1_080_000, "1.08 MB"), (5e12, "5000 GB")],
)
def test_format_bytes(size: float, words: str) -> None:
    assert charts.format_bytes(size) == words
