"""Options that belong together, written as the parameters of one function, for commands that have many."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options_of(source: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a typer command the keyword parameters of ``source`` as further options, behind its own.

    They reach the command through its ``**`` parameter.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        together = [*own, *inspect.signature(source, eval_str=True).parameters.values()]
        # typer reads both, and wants them to agree.
        command.__signature__ = signature.replace(parameters=together)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
        return command

    return decorate
