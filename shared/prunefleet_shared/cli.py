"""The one command, ``prunefleet``: finds the components' commands, and turns errors into a sentence and an exit code.

Components register a typer app under the entry-point group ``prunefleet.commands``; none is imported from here, and
one is loaded only when it is asked for, so that ``prunefleet --version`` never waits for torch.
"""

from __future__ import annotations

import importlib.metadata
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from prunefleet_shared import __version__
from prunefleet_shared.errors import ConfigError, PrunefleetError

COMMAND_GROUP = "prunefleet.commands"
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_TRACEBACK = "--traceback"
_EXTRAS = "edge,coordinator,simulation"


class ComponentCommands(TyperGroup):
    """The commands of all installed components, each loaded when it is first asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all registered commands."""
        return sorted(entry.name for entry in importlib.metadata.entry_points(group=COMMAND_GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command of this name; one that explains itself if what it needs is not installed."""
        for entry in importlib.metadata.entry_points(group=COMMAND_GROUP, name=cmd_name):
            try:
                command = get_command(entry.load())
                command.name = cmd_name
                return command
            except ImportError as error:
                return _not_installed(cmd_name, error)
        return None


root = typer.Typer(
    cls=ComponentCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A fleet of devices prunes and retrains its own CNN; only masks and metric sums leave a device.",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"prunefleet {__version__}")
        raise typer.Exit


@root.callback()
def prunefleet(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    show_traceback: Annotated[bool, typer.Option(_TRACEBACK, help="Show where an unexpected error came from.")] = False,
) -> None:
    """A fleet of devices prunes and retrains its own CNN; only masks and metric sums leave a device."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` if no ``arguments`` are given) and end the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        0 ok, 2 configuration or usage, 3 refused by the peer, 4 unreachable, 5 unusable input, 6 replay disagrees,
        70 a bug, 130 interrupted. Errors go to stderr as one sentence.
    """
    try:
        return get_command(root).main(list(arguments), "prunefleet", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except PrunefleetError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, not a stack
        if _TRACEBACK in arguments:
            traceback.print_exc()
        hint = f"this is a bug in prunefleet; run it again as `prunefleet {_TRACEBACK} ...` and report what it prints"
        return _fail(f"{type(error).__name__}: {error}; {hint}", EXIT_BUG)


def _fail(sentence: str, exit_code: int) -> int:
    click.echo(f"prunefleet: {sentence}", err=True)
    return exit_code


def _not_installed(name: str, error: ImportError) -> click.Command:
    def explain() -> None:
        msg = f"`{name}` cannot be loaded ({error}); install what it needs: pip install 'prunefleet[{_EXTRAS}]'"
        raise ConfigError(msg)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=explain, context_settings=settings, help="(not installed)")
