"""The ``coordinator`` commands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunefleet_shared.errors import InputError
from prunefleet_shared.identity_folder import default_state
from prunefleet_shared.roles import Role

if TYPE_CHECKING:
    from prunefleet_coordinator.replay import ReplayedDecision
    from prunefleet_coordinator.settings import ServeSettings

app = typer.Typer(no_args_is_help=True, help="Coordinate a fleet, and check what was decided.")

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder with identity and store.")]
TokenDirOption = Annotated[Path | None, typer.Option("--token-dir", help="Folder to claim one *.token file from.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="coordinator.toml; options win over it.")]


@app.callback()
def coordinator() -> None:
    """Coordinate a fleet, and check what was decided."""


@app.command("join")
def join_fleet(
    token: Annotated[
        str | None,
        typer.Argument(metavar="TOKEN", help="The join token; - reads it from stdin; $PRUNEFLEET_TOKEN else."),
    ] = None,
    state: StateOption = None,
    token_dir: TokenDirOption = None,
) -> None:
    """Join a fleet as its coordinator, with a one-time token."""
    from prunefleet_shared.join_command import join_command

    folder = _state(state)
    identity = join_command(Role.COORDINATOR, token, token_dir, folder)
    until = f"{identity.valid_until:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"coordinator {identity.name}, certificate until {until}, renewed by itself; state in {folder}")


@app.command("serve")
def serve_fleet(  # noqa: PLR0913 - one argument per option
    *,
    config: ConfigOption = None,
    state: StateOption = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT; 127.0.0.1:8470 unless told.")] = None,
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL; else SQLite in the state folder.")] = None,
    token_dir: TokenDirOption = None,
    allow_plain: Annotated[
        bool | None,
        typer.Option("--allow-plain", help="Allow campaigns of mode plain though other machines reach us."),
    ] = None,
    built_in_ca: Annotated[
        bool | None, typer.Option("--built-in-ca", help="Quick start: be the fleet's authority, too.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="With --built-in-ca: the name at which members reach this machine.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="With --built-in-ca: join tokens to print for devices.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and exit.")] = False,
) -> None:
    """Invite devices, sum what they say, decide, until a signal ends it."""
    from prunefleet_coordinator.settings import settings_toml

    settings = _settings(
        config,
        listen=listen,
        database=database,
        token_dir=token_dir,
        allow_plain=allow_plain,
        built_in_ca=built_in_ca,
        host=host,
        devices=devices,
    )
    if print_config:
        typer.echo(settings_toml(settings), nl=False)
        return
    from prunefleet_coordinator.serve import serve

    serve(settings, _state(state), typer.echo)


@app.command()
def health(state: StateOption = None) -> None:
    """Exit with 0 if the coordinator of this state folder answers, with 4 if not."""
    from prunefleet_coordinator.health import is_healthy

    typer.echo(f"the coordinator answers at {is_healthy(_state(state))}")


@app.command()
def export(
    *,
    campaign: Annotated[
        str | None, typer.Argument(metavar="[CAMPAIGN_ID]", help="Its id, or how it begins; else the newest.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    state: StateOption = None,
    config: ConfigOption = None,
    database: Annotated[str | None, typer.Option(help="As for `coordinator serve`.")] = None,
) -> None:
    """Write a campaign's signed documents and sums, for `replay`, and report.json; also while the server runs."""
    from prunefleet_coordinator.built_in_ca import is_built_in
    from prunefleet_coordinator.export import export_campaign, find_campaign, opened

    folder = _state(state)
    url = _settings(config, database=database).database_url(folder)
    with opened(url) as store:
        campaign_id = find_campaign([row.campaign_id for row in store.list_campaigns()], campaign)
        export_campaign(store, campaign_id, out, is_authority_built_in=is_built_in(folder))
    typer.echo(f"campaign {campaign_id} is in {out}; next: prunefleet report {out}", err=True)


@app.command()
def privacy(
    *,
    campaign: Annotated[
        str | None, typer.Argument(metavar="[CAMPAIGN]", help="Its folder, file or id; else the newest here.")
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    database: Annotated[str | None, typer.Option(help="As for `coordinator serve`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines.")] = False,
) -> None:
    """Say what a campaign guarantees, to whom, and what it does not, in plain words and numbers."""
    from prunefleet_coordinator.privacy_command import report_of
    from prunefleet_coordinator.privacy_report import privacy_lines

    folder = _state(state)
    report = report_of(campaign, folder, _settings(config, database=database).database_url(folder))
    typer.echo(json.dumps(asdict(report), indent=2) if as_json else "\n".join(privacy_lines(report)))


@app.command()
def replay(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one that holds several runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the decisions as JSON.")] = False,
) -> None:
    """Recompute every decision and ruling below DIR from the stored sums, and fail unless each agrees bit for bit."""
    from prunefleet_coordinator.replay import replay as replay_directory

    if not directory.is_dir():
        msg = f"{directory}: expected a folder written by a run"
        raise InputError(msg)
    decisions = replay_directory(directory)
    if not decisions:
        msg = f"{directory}: expected decisions (level-*/decision.json), found none"
        raise InputError(msg)
    typer.echo(_as_json(decisions) if as_json else _as_text(decisions))


def _state(state: Path | None) -> Path:
    return state or default_state(Role.COORDINATOR)


def _settings(config: Path | None, **options: object) -> ServeSettings:
    from prunefleet_coordinator.settings import load_settings

    return load_settings(config, options)


def _as_json(decisions: list[ReplayedDecision]) -> str:
    return json.dumps([asdict(decision) for decision in decisions], indent=2)


def _as_text(decisions: list[ReplayedDecision]) -> str:
    ruled = {None: "", True: ", promoted", False: ", rolled back"}
    lines = [
        f"{d.path}: agrees, {d.num_devices} devices, fingerprint {d.fingerprint[:16]}{ruled[d.is_promoted]}"
        for d in decisions
    ]
    keys = sorted({d.public_key_digest[:16] for d in decisions})
    plural = "" if len(lines) == 1 else "s"
    return "\n".join([*lines, f"{len(lines)} decision{plural} replayed, all agree; signed with {', '.join(keys)}"])
