"""The ``edge`` commands: for the owner of a device. torch is loaded by the worker process and by ``dry-run`` only."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunefleet_edge.profile_command import profile
from prunefleet_edge.prune_command import prune, retrain
from prunefleet_edge.retraining_options import FLEET_STRATEGIES
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.roles import Role

if TYPE_CHECKING:
    from prunefleet_edge.device_process import DeviceOptions
    from prunefleet_edge.state_folder import StateFolder
    from prunefleet_shared.identity_folder import Identity

_HELP = "Run a device, see what leaves it, and prune without a fleet."
app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False)
StateOption = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="The device's state folder ($PRUNEFLEET_STATE).")
]
DataOption = Annotated[
    str, typer.Option("--data", metavar="SOURCE", help="A folder LABEL/*.png, npz:PATH, or another KIND:ARGUMENT.")
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="How to fine-tune: digits or images (the default fits the source).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TokenDirOption = Annotated[
    Path | None, typer.Option("--token-dir", metavar="DIR", help="Claim one of the *.token files in DIR.")
]


SourceOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="A folder LABEL/*.png, npz:PATH, or another KIND:ARGUMENT; none: only take the fleet's network.",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the options' names as keys; options win over it.")
]
ClassOption = Annotated[str | None, typer.Option("--class", help="The device class (default: the identity's).")]
AllowPlainOption = Annotated[
    bool | None,
    typer.Option("--allow-plain", help="Agree to campaigns in which the coordinator sees each contribution."),
]
AllowFactoryOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE.MODULE:FACTORY", help="Let this code make a campaign's network; may be given repeatedly."
    ),
]
OnceOption = Annotated[bool | None, typer.Option("--once", help="End after one campaign.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads to train with (default 1).")]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        help=f"How to retrain the fleet's network here: {', '.join(FLEET_STRATEGIES)} (default all). Its numbers "
        "are keys of the table [retraining] in the configuration."
    ),
]


app.command()(prune)
app.command()(retrain)
app.command()(profile)


@app.callback()
def edge() -> None:
    """Run a device, see what leaves it, and prune without a fleet."""


@app.command()
def join(
    token: Annotated[
        str | None, typer.Argument(help="The join token; - reads it from standard input; or $PRUNEFLEET_TOKEN.")
    ] = None,
    token_dir: TokenDirOption = None,
    state: StateOption = None,
) -> None:
    """Become a device of a fleet: make a key here, and have it certified with a one-time token."""
    folder = _folder(state)
    identity = _join(folder, token, token_dir)
    until = identity.valid_until.isoformat(timespec="minutes")
    typer.echo(f"joined as {identity.name}, class {identity.device_class}, until {until}; state in {folder.path}")


@app.command()
def run(  # noqa: PLR0913 - one argument per option
    *,
    data: SourceOption = None,
    config: ConfigOption = None,
    state: StateOption = None,
    token_dir: TokenDirOption = None,
    device_class: ClassOption = None,
    allow_plain: AllowPlainOption = None,
    allow_factory: AllowFactoryOption = None,
    once: OnceOption = None,
    threads: ThreadsOption = None,
    preset: PresetOption = None,
    strategy: StrategyOption = None,
) -> None:
    """Take part in campaigns, one after the other, until told to stop (SIGTERM or Ctrl-C)."""
    from prunefleet_edge.device_settings import load_device_settings
    from prunefleet_shared.identity_folder import load_identity

    given = {
        "data": data,
        "state": state,
        "token_dir": token_dir,
        "class": device_class,
        "allow_plain": allow_plain,
        "allow_factory": allow_factory or None,
        "once": once,
        "threads": threads,
        "preset": preset,
    }
    settings = load_device_settings(config, given, strategy)
    options, folder = settings.options(), _folder(settings.state)
    if settings.token_dir is not None:
        _join(folder, None, settings.token_dir)
    else:
        load_identity(folder.path, Role.DEVICE)
    _run_until_told(folder, options)


@app.command()
def status(
    *,
    state: StateOption = None,
    as_json: JsonOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print nothing; exit 0 if the device is alive, else 1.")
    ] = False,
) -> None:
    """Say what the device does or waits for, and what it keeps."""
    from prunefleet_edge import status as device_status

    folder, now = _folder(state), datetime.now(UTC)
    found = device_status.read_status(folder.status)
    is_alive = device_status.is_fresh(found, now)
    if check:
        raise typer.Exit(0 if is_alive else 1)
    kept = device_status.kept_facts(folder.kept)
    facts = asdict(found) | {"kept": kept, "is_alive": is_alive}
    typer.echo(json.dumps(facts, indent=2) if as_json else device_status.status_text(found, kept, now))


@app.command()
def audit(
    *,
    state: StateOption = None,
    last: Annotated[int | None, typer.Option(min=1, help="Print only the last N messages.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="HEAD", help="Fail unless this head, noted earlier, is in the chain.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print every message that left this device, in words, and check that the record was not changed."""
    from prunefleet_edge.audit import AuditError
    from prunefleet_edge.audit_report import audit_json, audit_text, check_head, report_audit

    expected = None if expect is None else check_head(expect)
    report = report_audit(_folder(state).path, last=last, expected_head=expected)
    typer.echo(audit_json(report) if as_json else audit_text(report))
    if report.problem is not None:
        raise AuditError(report.problem)


@app.command("dry-run")
def dry_run(
    data: DataOption,
    *,
    campaign: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A campaign's folder or campaign.json (default: the last one seen)."),
    ] = None,
    state: StateOption = None,
    preset: PresetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prepare the vote and print exactly what would be sent. Sends nothing and opens no connection."""
    from prunefleet_edge.dry_run import dry_run_json, dry_run_text, try_dry_run
    from prunefleet_edge.prune_settings import default_recipe

    recipe = preset or default_recipe(data)
    _tell("preparing the vote; this takes as long as it would in a campaign")
    result = try_dry_run(_folder(state), data, campaign, recipe)
    typer.echo(dry_run_json(result) if as_json else dry_run_text(result))


def _run_until_told(folder: StateFolder, options: DeviceOptions) -> None:
    from prunefleet_edge.device_process import DeviceProcess
    from prunefleet_edge.status import kept_facts

    async def main() -> str:
        task = asyncio.current_task()
        if task is None:
            msg = "no task"
            raise RuntimeError(msg)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        ending = await DeviceProcess(folder, options, _tell).run()
        return ending.name.lower()

    try:
        ending = asyncio.run(main())
    except asyncio.CancelledError:
        _tell("stopped")
        return
    kept = kept_facts(folder.kept)
    words = "no network kept" if kept is None else f"kept {kept.get('path')} at {kept.get('cost_permille')} / 1000"
    typer.echo(f"campaign {ending}; {words}")


def _folder(state: Path | None) -> StateFolder:
    from prunefleet_edge.state_folder import StateFolder
    from prunefleet_shared.identity_folder import default_state

    path = state or default_state(Role.DEVICE)
    if path.exists() and not path.is_dir():
        msg = f"{path}: expected a folder for --state, got a file"
        raise ConfigError(msg)
    return StateFolder(path)


def _tell(words: str) -> None:
    stamp = datetime.now(UTC).strftime("%H:%M:%S")
    sys.stderr.write(f"{stamp} {words}\n")
    sys.stderr.flush()


def _join(folder: StateFolder, token: str | None, token_dir: Path | None) -> Identity:
    """Join, and write into the audit what the authority is told."""
    from prunefleet_edge.audit import AuditLog
    from prunefleet_edge.egress import enrolment_record
    from prunefleet_shared.identity_folder import make_state_folder
    from prunefleet_shared.join_command import join_command

    make_state_folder(folder.path)
    with closing(AuditLog(folder.path)) as audit:
        return join_command(
            Role.DEVICE,
            token,
            token_dir,
            folder.path,
            lambda message: audit.append(enrolment_record(message, datetime.now(UTC))),
        )
