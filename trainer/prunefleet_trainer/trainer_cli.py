"""The ``trainer`` commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunefleet_edge.threads import DEFAULT_THREADS
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.roles import Role
from prunefleet_trainer.recipe_name import RecipeName

if TYPE_CHECKING:
    from prunefleet_shared.campaign import Campaign
    from prunefleet_shared.member_link import MemberLink
    from prunefleet_trainer.retraining import RetrainPlan
    from prunefleet_trainer.runner import TrainerRunner

app = typer.Typer(no_args_is_help=True, help="Prune and retrain what the fleet decides, on public data.")

CALL_TIMEOUT_S = 90.0
"""Longest wait for an answer; the coordinator holds a call for some tens of seconds."""

TokenArgument = Annotated[
    str | None, typer.Argument(metavar="TOKEN", help="The join token; - reads it from stdin; $PRUNEFLEET_TOKEN else.")
]
StateOption = Annotated[Path | None, typer.Option("--state", help="Folder with key, certificate and caches.")]
TokenDirOption = Annotated[Path | None, typer.Option("--token-dir", help="Folder to claim one *.token file from.")]
AllowFactoryOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE.MODULE:FACTORY", help="Let this code make a campaign's network; may be given repeatedly."
    ),
]


@app.command("join")
def join_fleet(token: TokenArgument = None, state: StateOption = None, token_dir: TokenDirOption = None) -> None:
    """Join a fleet as its trainer, with a one-time token."""
    from prunefleet_trainer.membership import join

    join(Role.TRAINER, token, token_dir, state)


@app.command("run")
def run_trainer(  # noqa: PLR0913 - one argument per option
    *,
    public: Annotated[
        str | None, typer.Option("--public", help="Public data: folder:PATH, npz:PATH, or digits:public.")
    ] = None,
    no_public: Annotated[
        bool, typer.Option("--no-public", help="There are none: only prune the base; devices blend, and fine-tune.")
    ] = False,
    base: Annotated[Path | None, typer.Option(help="The base's safetensors file; else it is fetched.")] = None,
    state: StateOption = None,
    token_dir: TokenDirOption = None,
    recipe: Annotated[RecipeName, typer.Option(help="How to train.")] = RecipeName.AUTO,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, at most.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads to train with.")] = DEFAULT_THREADS,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Labels are not known: the base's own answers take their place.")
    ] = False,
    allow_factory: AllowFactoryOption = None,
    once: Annotated[bool, typer.Option("--once", help="Publish one slim base, then exit.")] = False,
) -> None:
    """Wait for decisions, prune and retrain the base on public data, sign and publish; for ever."""
    import asyncio
    from contextlib import suppress

    from prunefleet_shared.identity_folder import default_state
    from prunefleet_trainer.membership import join
    from prunefleet_trainer.retraining import RetrainPlan

    folder = state or default_state(Role.TRAINER)
    if (public is None) != no_public:
        msg = "expected --public SOURCE, or --no-public where there are no public data to retrain on"
        raise ConfigError(msg)
    if public is not None:
        _check_source(public)
    if token_dir:
        join(Role.TRAINER, None, token_dir, folder)
    with suppress(asyncio.CancelledError):  # ended by a signal: an ordinary end
        factories = tuple(allow_factory or ())
        plan = RetrainPlan(public, folder, base, recipe, epochs, threads, factories, unlabelled)
        asyncio.run(_run(plan, is_once=once))


def _check_source(public: str) -> None:
    """Fail before the first decision, not after it, when the path is plainly wrong."""
    kind, colon, rest = public.partition(":")
    path = Path(rest if colon else public)
    if (not colon or kind in ("folder", "npz")) and not path.exists():
        msg = f"--public {public}: expected {'a file' if kind == 'npz' else 'a folder'} at {path}, found none"
        raise ConfigError(msg)


async def _run(plan: RetrainPlan, *, is_once: bool) -> None:
    import asyncio
    import random
    import signal
    import time

    from prunefleet_edge.backoff import Backoff
    from prunefleet_shared.member_link import MemberLink
    from prunefleet_trainer.serve import RETRIES, serve

    task = asyncio.current_task()
    if task:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    link = MemberLink(plan.state, Role.TRAINER, timeout_s=CALL_TIMEOUT_S)
    who = link.identity
    _say(f"trainer {who.name}, coordinator {who.coordinator_address}; waiting for decisions")
    backoff = Backoff(RETRIES, random.Random())  # noqa: S311 - spreads waits, protects nothing
    try:
        make, learn = _runner_maker(link, plan), link.renew_now
        await serve(make, backoff, time.monotonic, _say, is_once=is_once, learn_operators=learn)
    finally:
        await link.close()


def _runner_maker(link: MemberLink, plan: RetrainPlan) -> Callable[[], TrainerRunner]:
    from prunefleet_trainer.retraining import ChildRetraining
    from prunefleet_trainer.runner import TrainerRunner

    retrain = ChildRetraining(link, plan, _say)
    told: set[str] = set()

    def on_foreign(campaign: Campaign) -> None:
        if campaign.campaign_id not in told:
            told.add(campaign.campaign_id)
            words = "names another trainer's key; left to that trainer (create a campaign with --trainer to choose)"
            _say(f"campaign {campaign.campaign_id[:8]} {words}")

    def new_runner() -> TrainerRunner:
        who = link.identity
        return TrainerRunner(
            link,
            "",
            operator_keys=lambda: link.identity.operator_keys,  # an operator may join after us
            signing_key=who.signing_key,
            retrain=retrain,
            on_foreign=on_foreign,
        )

    return new_runner


def _say(words: str) -> None:
    typer.echo(words, err=True)
