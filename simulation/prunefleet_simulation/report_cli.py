"""``prunefleet report``: a page from a report's JSON, of a real campaign or of a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunefleet_shared.errors import InputError

if TYPE_CHECKING:
    from prunefleet_coordinator.report_model import Report

app = typer.Typer(help="Make the page of a report.", add_completion=False)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="DIR_OR_FILE", help="report.json, or the folder that holds it.")],
    out: Annotated[Path | None, typer.Option(help="Page to write (default: report.html beside it).")] = None,
) -> None:
    """Make report.html from report.json, as `coordinator export` or `simulate` wrote it."""
    path = source / "report.json" if source.is_dir() else source
    made = read_report(path)
    page = out or path.with_name("report.html")
    from prunefleet_shared.document_file import write_whole
    from prunefleet_simulation.page import render_page

    write_whole(page, render_page(made).encode())
    typer.echo(str(page))


def read_report(path: Path) -> Report:
    """A report from its JSON.

    Raises:
        InputError: The file is missing, or no report of this version (the user's to mend).
    """
    from pydantic import ValidationError

    from prunefleet_coordinator.report_model import Report

    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"{path}: expected a report, got {error.strerror}; `prunefleet coordinator export` writes one"
        raise InputError(msg) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top"
        msg = f"{path}: expected a report of this version, got {first['msg']} at {where}"
        raise InputError(msg) from None
