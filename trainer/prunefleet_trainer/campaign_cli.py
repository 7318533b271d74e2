"""The ``campaign`` commands: an operator's client of the coordinator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.option_sets import with_options_of
from prunefleet_shared.roles import Role
from prunefleet_trainer.create_options import (
    CanaryCohortsOption,
    CanaryOption,
    ClassOption,
    CombinationOption,
    MaxLossOption,
    MaxWorseOption,
    PrivacyOption,
    SearchOption,
)
from prunefleet_trainer.decision_options import decision_options
from prunefleet_trainer.recipe_name import RecipeName

if TYPE_CHECKING:
    from prunefleet_shared.messages import Control

app = typer.Typer(no_args_is_help=True, help="Create a campaign, start it, watch it, stop it.")

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder with the operator's key and certificate.")]
TokenDirOption = Annotated[Path | None, typer.Option("--token-dir", help="Folder to claim one *.token file from.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CampaignArgument = Annotated[
    str | None, typer.Argument(metavar="[CAMPAIGN_ID]", help="Its id, or how it begins; not needed when one is live.")
]
WATCH_S = 2.0


@app.command("join")
def join_fleet(
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN", help="The join token; - reads it from stdin; $PRUNEFLEET_TOKEN.")
    ] = None,
    state: StateOption = None,
    token_dir: TokenDirOption = None,
) -> None:
    """Join a fleet as its operator, with a one-time token."""
    from prunefleet_trainer.membership import join

    join(Role.OPERATOR, token, token_dir, state)


@app.command()
@with_options_of(decision_options)
def create(  # noqa: PLR0913 - one argument per option
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write campaign.json and base.safetensors to.")],
    *,
    classes: ClassOption,
    model: Annotated[str, typer.Option(help="ARCHITECTURE/CxHxW/CLASSES, such as resnet8/1x12x12/10.")],
    base: Annotated[Path | None, typer.Option(help="The base's safetensors file.")] = None,
    public: Annotated[str | None, typer.Option(help="Public data (folder:PATH, npz:PATH, …) to train one.")] = None,
    levels: Annotated[str, typer.Option(help="What may remain of the cost at each level, falling.")] = "0.4,0.2",
    cohort: Annotated[int, typer.Option(help="Contributions at which a session closes.")] = 10,
    quorum: Annotated[int, typer.Option(help="Contributions without which a session is given up.")] = 8,
    deadline: Annotated[str, typer.Option(help="Longest time of a session: 90s, 10m, 24h.")] = "10m",
    max_attempts: Annotated[int, typer.Option(help="Sessions given up in a round before the campaign fails.")] = 3,
    overselect: Annotated[float, typer.Option(help="Devices invited for each one needed, 1 to 3.")] = 1.3,
    cohorts: Annotated[int, typer.Option(help="Cohorts of a round, each summed by itself.")] = 1,
    combination: CombinationOption = "sum",
    max_loss: MaxLossOption = None,
    max_worse: MaxWorseOption = 0.1,
    search: SearchOption = "descend",
    canary: CanaryOption = 0,
    canary_cohorts: CanaryCohortsOption = 1,
    coordinator: Annotated[str | None, typer.Option(help="The coordinator's name, where there are several.")] = None,
    trainer: Annotated[str | None, typer.Option(help="The trainer's name, where there are several.")] = None,
    decision_key: Annotated[Path | None, typer.Option(help="The coordinator's public key, PEM; asks nobody.")] = None,
    slim_base_key: Annotated[Path | None, typer.Option(help="The trainer's public key, PEM; asks nobody.")] = None,
    privacy: PrivacyOption = "sum",
    min_devices: Annotated[int, typer.Option(help="Fewest devices in a sum; their owners have a say, too.")] = 8,
    epsilon: Annotated[float, typer.Option(help="With sum+dp: epsilon of the whole campaign.")] = 8.0,
    delta_power: Annotated[int, typer.Option(help="With sum+dp: delta is 10 to the minus this.")] = 6,
    recipe: Annotated[RecipeName, typer.Option(help="How a base is trained.")] = RecipeName.AUTO,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the public data, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of a base's first weights.")] = 1,
    state: StateOption = None,
    as_json: JsonOption = False,
    **decision: Any,
) -> None:
    """Write a signed campaign: its base, layout, cost table, lane table, budgets, rules and privacy terms.

    With several classes, one for each, in folders of OUT named after them.
    """
    options = {key: value for key, value in (locals() | decision).items() if key not in ("as_json", "decision")}
    from prunefleet_trainer.create_command import CreateOptions, create_campaigns

    made = create_campaigns(CreateOptions(**options), _say)
    _print_made(made, out, as_json=as_json)


def _print_made(made: list[dict[str, Any]], out: Path, *, as_json: bool) -> None:
    document = made[0] if len(made) == 1 else {"campaigns": made}
    next_step = f"next: prunefleet campaign start {out}"
    _print(document, as_json=as_json, words="\n".join([*map(_made_words, made), next_step]))


def _made_words(made: dict[str, Any]) -> str:
    levels = ", ".join(f"{level['permille'] / 10:g} % = {level['budget']:,}" for level in made["levels"])
    return (
        f"campaign {made['campaign_id']} for class {made['device_class']}: {made['model']}, "
        f"{made['num_channels']} channels in {made['num_groups']} groups\n"
        f"levels of {made['dense_cost']:,} {made['cost_unit']}: {levels}\n"
        f"{_further_words(made)}"
        f"a vote takes {made['vote_bytes']:,} bytes; privacy mode {made['privacy_mode']}; "
        f"{'steered' if made['is_steered'] else 'not steered'}\n"
        f"{made['floor']}"
    )


def _further_words(made: dict[str, Any]) -> str:
    return "".join(
        f"and at most {', '.join(f'{budget:,}' for budget in one['budgets'])} of {one['dense_cost']:,} "
        f"{one['cost_unit']}\n"
        for one in made["further_budgets"]
    )


@app.command()
def start(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Written by `campaign create`; of several classes, all are started.")
    ],
    state: StateOption = None,
    allow_plain: Annotated[
        bool, typer.Option("--allow-plain", help="Let a coordinator on another machine see each contribution.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a campaign, upload its base, and start it; those of several classes one after the other."""
    import asyncio

    from prunefleet_trainer.campaign_folder import campaign_folders
    from prunefleet_trainer.operator_commands import start_from_folder

    started = [
        asyncio.run(start_from_folder(one, _state(state), _say, allow_plain=allow_plain))
        for one in campaign_folders(folder)
    ]
    document = {"campaign_id": started[0]} if len(started) == 1 else {"campaign_ids": started}
    _print(document, as_json=as_json, words="\n".join(f"campaign {one} is started" for one in started))


@app.command()
def status(
    state: StateOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds until interrupted.")] = False,
) -> None:
    """Say where every campaign stands: what is awaited, since when, from whom."""
    import asyncio

    from prunefleet_trainer.operator_commands import fetch_status, watch_status
    from prunefleet_trainer.status_table import status_json, status_table

    if watch and as_json:
        msg = "--watch and --json do not go together; call `campaign status --json` again instead"
        raise ConfigError(msg)
    if watch:
        asyncio.run(watch_status(_state(state), WATCH_S))
        return
    told = asyncio.run(fetch_status(_state(state)))
    if as_json:
        _print(status_json(told), as_json=True, words="")
        return
    from rich.console import Console

    Console().print(status_table(told))


@app.command()
def pause(campaign_id: CampaignArgument = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Open no session until it is resumed; an open one may finish."""
    from prunefleet_shared.messages import Control

    _control(Control.PAUSE, campaign_id, state, as_json=as_json)


@app.command()
def resume(campaign_id: CampaignArgument = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Go on with a paused campaign."""
    from prunefleet_shared.messages import Control

    _control(Control.RESUME, campaign_id, state, as_json=as_json)


@app.command()
def stop(campaign_id: CampaignArgument = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """End a campaign for good; devices stop training within seconds."""
    from prunefleet_shared.messages import Control

    _control(Control.STOP, campaign_id, state, as_json=as_json)


def _control(control: Control, campaign_id: str | None, state: Path | None, *, as_json: bool) -> None:
    import asyncio

    from prunefleet_trainer.operator_commands import control_one

    chosen = asyncio.run(control_one(_state(state), campaign_id, control))
    done = {"pause": "paused", "resume": "resumed", "stop": "stopped"}[control.name.lower()]
    _print({"campaign_id": chosen, "done": done}, as_json=as_json, words=f"campaign {chosen} is {done}")


def _state(state: Path | None) -> Path:
    from prunefleet_shared.identity_folder import default_state

    return state or default_state(Role.OPERATOR)


def _print(document: dict[str, Any], *, as_json: bool, words: str) -> None:
    typer.echo(json.dumps(document, indent=2) if as_json else words)


def _say(words: str) -> None:
    typer.echo(words, err=True)
