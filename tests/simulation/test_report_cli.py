"""``prunefleet report``: a page from JSON, or a sentence that says what is wrong with it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from prunefleet_coordinator.report_model import report_json
from prunefleet_shared.errors import InputError
from prunefleet_simulation.page import render_page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from typer.testing import CliRunner

    from prunefleet_simulation.report_cli import app, read_report


def test_the_page_lands_beside_the_report_or_where_asked(real_report, tmp_path: Path) -> None:
    report = real_report()
    path = tmp_path / "report.json"
    path.write_text(report_json(report), encoding="utf-8")
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.stdout == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(report)
    CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.parametrize("text", [None, "", "{}", '{"schema_version": 2}', "[]"])
def test_what_is_no_report_is_said_so(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="expected a report"):
        read_report(path)
