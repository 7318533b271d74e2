"""Options that several functions share reach a command as if they were its own."""

from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from prunefleet_shared.option_sets import with_options_of


def colours(*, red: Annotated[int, typer.Option(help="How red.")] = 1, blue: list[str] | None = None) -> None:
    """The options."""


app = typer.Typer()


@app.command()
@with_options_of(colours)
def paint(what: str, *, twice: bool = False, **of_colours: Any) -> None:
    """Paint it."""
    typer.echo(f"{what} {twice} {of_colours}")


def test_own_and_further_options_arrive():
    result = CliRunner().invoke(app, ["wall", "--red", "3", "--blue", "a", "--blue", "b", "--twice"])
    assert result.output == "wall True {'red': 3, 'blue': ['a', 'b']}\n"
    assert "How red." in CliRunner().invoke(app, ["--help"]).output
