"""The page: self-contained, escaped, and saying the numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prunefleet_coordinator.report_model import Report
from prunefleet_shared.campaign import SUM_DP
from prunefleet_shared.mixture import Mixture
from prunefleet_shared.steering_record import SteeringRecord
from prunefleet_simulation.page import PHASE_HEADINGS, render_page, write_report
from prunefleet_simulation.report import build_report
from prunefleet_simulation.results import ARMS, LevelResult, RunResult


@pytest.fixture(scope="module")
def report(run: RunResult) -> Report:
    return build_report(run, base_weight_bytes=1_080_000)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_page(report)


class _References(HTMLParser):
    """Everything a browser would fetch, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_page_loads_nothing(html: str) -> None:
    parser = _References()
    parser.feed(html)
    assert all(reference.startswith("#") for reference in parser.found)
    assert parser.open == []
    assert not {"script", "link", "iframe", "img", "object"} & set(parser.tags)
    assert "@import" not in html
    assert "url(http" not in html


def test_page_says_the_numbers(report: Report, html: str) -> None:
    assert report.verdict is not None
    assert report.arms is not None
    assert report.arms_paired is not None
    assert "The fleet helped" in html
    assert report.verdict.sentence in html
    for arm in report.arms.values():
        assert f"<td>{100 * arm.accuracy_mean:.1f} %</td>" in html
    for pair in report.arms_paired.values():
        assert f"{100 * pair.mean:+.1f}".replace("-", "\N{MINUS SIGN}") in html
    for decision in report.decisions:
        assert decision.fingerprint in html
    for part in report.contribution.parts:
        assert part.meaning.replace("'", "&#39;") in html
    assert report.command in html
    assert report.replay_command in html


def test_notes_are_shown_and_escaped(html: str) -> None:
    assert "Plain mode: the coordinator sees each contribution" in html
    assert "a &lt;public&gt; half of the digits &amp; kept" in html
    assert "<public>" not in html


def test_same_report_same_bytes(report: Report, html: str) -> None:
    assert render_page(report) == html


NEVER_OF_A_REAL_FLEET = ("worst tenth", "Device by device", "seed", "run time", "sockets", "FedAvg", "None", "95 %")


def words_of(html: str) -> str:
    html = re.sub(r"<(style|svg).*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@pytest.mark.parametrize(("num_decided", "num_measured"), [(0, 0), (1, 0), (2, 1), (2, 2)])
def test_a_real_fleet_has_a_page_without_empty_parts(real_report, num_decided: int, num_measured: int) -> None:
    html = render_page(real_report(num_decided, num_measured))
    parser = _References()
    parser.feed(html)
    assert parser.open == []
    words = words_of(html)
    assert "A real fleet does not tell any device's accuracy" in words
    assert [word for word in NEVER_OF_A_REAL_FLEET if word in words] == []
    assert f"{num_decided} of 2 levels decided" in words
    assert not re.search(r"<tbody>\s*</tbody>", html), "no empty tables"
    assert not re.search(r"<dl[^>]*>\s*</dl>", html)
    assert ("What the fleet decided" in words) == (num_decided > 0)
    assert ("The gate kept" in words) == (num_measured > 0)
    assert words.count("not measured yet") == num_decided - num_measured


def test_noisy_sums_are_not_told_as_counts(real_report) -> None:
    exact = real_report(2, 2)
    setting = exact.setting.model_copy(update={"privacy_mode": SUM_DP})
    words = words_of(render_page(exact.model_copy(update={"setting": setting})))
    assert "kept by the gate" in words_of(render_page(exact)).partition("What the fleet decided")[0]
    assert "kept by the gate" not in words.partition("What the fleet decided")[0]
    assert "The gate kept" not in words
    assert "read from sums with noise" in words
    assert "read from sums with noise" not in words_of(render_page(exact))


@pytest.mark.parametrize("phase", PHASE_HEADINGS)
def test_a_real_fleets_page_says_how_it_stands(real_report, phase: str) -> None:
    words = words_of(render_page(real_report(1, 0, phase=phase, is_paused=True)))
    assert PHASE_HEADINGS[phase] in words
    assert "paused" in words
    assert "Plain mode: the coordinator saw each contribution." in words


def test_no_difference_reads_as_none(make_run) -> None:
    html = render_page(build_report(make_run(num_seeds=1, offsets=dict.fromkeys(ARMS, 0.0), noise=0.0)))
    assert "The fleet made no measurable difference" in html
    assert "The fleet helped" not in html


def test_write_report_leaves_both_files(run: RunResult, html: str, tmp_path: Path) -> None:
    page_path = write_report(run, tmp_path / "new" / "run", base_weight_bytes=1_080_000)
    assert page_path == tmp_path / "new" / "run" / "report.html"
    assert page_path.read_text(encoding="utf-8") == html
    assert json.loads(page_path.with_name("report.json").read_text(encoding="utf-8"))["run_id"] == run.run_id


def clustered(run: RunResult) -> RunResult:
    """The run, had its campaign had clusters: four networks, and a record of how the mixture was cut."""
    mixture = Mixture((0, 600_000, 400_000), 700_000, 100_000, is_confident=True)
    record = SteeringRecord("ab" * 16, 0, "cd" * 32, "ef" * 32, (3, 5, 9), ((7,), (1,), (3,)), mixture, ((1,), (2,)))
    networks = ((0, 4), (1, 5), (0, 0), (0, 2))

    def level(result: LevelResult) -> LevelResult:
        return replace(result, steering=record, outcome=replace(result.outcome, networks=networks))

    return replace(run, seeds=tuple(replace(s, levels=tuple(map(level, s.levels))) for s in run.seeds))


def test_which_networks_were_kept_is_said_where_there_are_several(run: RunResult, html: str) -> None:
    report = build_report(clustered(run), base_weight_bytes=1_080_000)
    outcome = report.rounds[0].outcome
    assert outcome is not None
    assert outcome.networks is not None
    assert [(count.rejected, count.kept) for count in outcome.networks] == [(0, 4), (1, 5), (0, 0), (0, 2)]
    assert report.steering is not None
    assert report.steering[0].clusters == [[5], [9]]
    page = render_page(report)
    assert "4 / 5 / 0 / 2" in page
    assert "clusters of kinds" in page
    assert "of these, each network" not in html
    assert "clusters of kinds" not in html
    parser = _References()
    parser.feed(page)
    assert parser.open == []
