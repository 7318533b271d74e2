"""The ``ca`` commands: the authority's owner, on the authority's machine."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from prunefleet_coordinator.ca import files
from prunefleet_coordinator.ca.authority_service import AuthorityService
from prunefleet_coordinator.ca.bootstrap import write_bootstrap_tokens
from prunefleet_coordinator.ca.run import check_health, run_until_stopped
from prunefleet_coordinator.ca.server import open_authority
from prunefleet_coordinator.ca.store import AuthorityStore, StoredCertificate
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_shared import wire_limits
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.durations import parse_duration_s
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.identity_folder import default_state, make_state_folder
from prunefleet_shared.member_link import utc_now
from prunefleet_shared.roles import Role

app = typer.Typer(no_args_is_help=True, help="Run the authority that says who is in the fleet.")

State = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="The authority's folder.")]
Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="The root's folder; take it offline. [default: STATE/root]")
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="Name or address of this machine, as members see it; repeatable.")
]
Coordinator = Annotated[str | None, typer.Option("--coordinator", metavar="HOST:PORT", help="Told to every member.")]
Validity = Annotated[str, typer.Option("--validity", help="Life of a member's certificate, at most 7d.")]
_TIME_FORMAT = "%Y-%m-%d %H:%M"


@app.callback()
def ca() -> None:
    """Run the authority that says who is in the fleet."""


@app.command()
def init(
    state: State = None,
    root: Root = None,
    hosts: Hosts = None,
    coordinator: Coordinator = None,
    validity: Validity = "7d",
) -> None:
    """Make an authority: a root to take offline, and an intermediate to work with."""
    folder = _state(state)
    _init(folder, root, hosts, coordinator, validity)


@app.command()
def serve(  # noqa: PLR0913, PLR0917 - one argument per option
    state: State = None,
    listen: Annotated[str, typer.Option(help="For newcomers.", metavar="HOST:PORT")] = "0.0.0.0:8471",
    members: Annotated[str, typer.Option(help="For members.", metavar="HOST:PORT")] = "0.0.0.0:8472",
    should_init: Annotated[bool, typer.Option("--init", help="Make the authority first if there is none.")] = False,
    root: Root = None,
    hosts: Hosts = None,
    coordinator: Coordinator = None,
    validity: Validity = "7d",
    bootstrap: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one token each for coordinator, operator and trainer there, once."),
    ] = None,
) -> None:
    """Let newcomers in, renew certificates, answer for the deny-list. Ends with SIGTERM."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ"
    )
    logging.Formatter.converter = time.gmtime
    folder = _state(state)
    if should_init and not files.is_initialised(folder):
        _init(folder, root, hosts, coordinator, validity)
    asyncio.run(
        run_until_stopped(
            folder,
            join_at=_address(listen, "listen"),
            members_at=_address(members, "members"),
            on_running=lambda authority: write_bootstrap_tokens(authority, folder, bootstrap) if bootstrap else None,
            say=_say,
        )
    )


@app.command()
def token(  # noqa: PLR0913, PLR0917 - as above
    role: Annotated[Role, typer.Option(help="What it lets in: device, trainer, operator or coordinator.")],
    state: State = None,
    name: Annotated[str | None, typer.Option(help="Name of the new member.")] = None,
    group: Annotated[str | None, typer.Option(help="What names of the new members start with.")] = None,
    device_class: Annotated[str, typer.Option("--class", help="Of devices.")] = "",
    hosts: Annotated[list[str] | None, typer.Option("--host", help="At which a coordinator is reached.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it may be used, 60s to 30d.")] = "24h",
    count: Annotated[int, typer.Option(help="How many, for a group.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write files <i>.token there instead.")] = None,
) -> None:
    """Make join tokens of any role; each is shown once."""
    if (name is None) == (group is None):
        msg = "expected either --name (one member) or --group (each with a name of its own)"
        raise ConfigError(msg)
    order = TokenOrder(
        role,
        name or group or "",
        is_group=group is not None,
        count=count,
        valid_for_s=parse_duration_s(ttl, "ttl"),
        device_class=device_class,
        hosts=tuple(hosts or ()),
    )
    with _authority(_state(state)) as (service, _store):
        texts = service.create_tokens(order)
    _hand_over(texts, out)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The member's name.")], state: State = None) -> None:
    """Put all certificates of a member on the deny-list; coordinators hear of it within seconds."""
    with _authority(_state(state)) as (service, _store):
        service.revoke(name)
    _say(f"{name} is revoked; a new token may let it in again")


@app.command("list")
def list_members(
    state: State = None, as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False
) -> None:
    """List the members by their latest certificates."""
    with _authority(_state(state)) as (_service, store):
        members = list(_all_members(store))
    if as_json:
        typer.echo(json.dumps([_as_plain(member) for member in members], indent=2))
        return
    for member in members:
        until = datetime.fromtimestamp(member.not_after_ms / 1000, UTC).strftime(_TIME_FORMAT)
        note = "revoked" if member.revoked_at_ms is not None else f"until {until} UTC"
        typer.echo(f"{member.name:<32} {member.role:<12} {note}")
    _say(f"{len(members)} members")


@app.command()
def rotate(state: State = None, root: Root = None) -> None:
    """Replace the intermediate, while the root is here; a server that runs takes it up by itself."""
    folder = _state(state)
    files.rotate_intermediate(folder, root or folder / "root", utc_now())
    _say("the intermediate is new; take the root offline again")


@app.command()
def health(state: State = None) -> None:
    """Ask the authority on this machine for its root; exit code 4 unless it answers within five seconds."""
    asyncio.run(check_health(_state(state)))
    _say("the authority answers")


def _state(state: Path | None) -> Path:
    return state or default_state(Role.AUTHORITY)


def _init(folder: Path, root: Path | None, hosts: list[str] | None, coordinator: str | None, validity: str) -> None:
    if not hosts or not coordinator:
        msg = "expected --host (how members reach this authority) and --coordinator HOST:PORT"
        raise ConfigError(msg)
    validity_s = parse_duration_s(validity, "validity")
    if validity_s % 3600:
        msg = f"validity: expected whole hours, such as 24h or 7d, got {validity}"
        raise ConfigError(msg)
    root_folder = root or folder / "root"
    settings = files.AuthoritySettings(tuple(hosts), coordinator, validity_h=validity_s // 3600)
    files.init_authority(folder, root_folder, settings, utc_now())
    _say(f"the authority is in {folder}")
    _say(f"whoever has {root_folder / 'root.key'} can make up a fleet: move {root_folder} to an offline medium now")


@contextmanager
def _authority(folder: Path) -> Iterator[tuple[AuthorityService, AuthorityStore]]:
    service, store = open_authority(folder, utc_now)
    try:
        yield service, store
    finally:
        store.close()


def _all_members(store: AuthorityStore) -> Iterator[StoredCertificate]:
    after_name = ""
    while page := store.list_members(None, after_name, wire_limits.MAX_PAGE):
        yield from page
        after_name = page[-1].name


def _as_plain(member: StoredCertificate) -> dict[str, object]:
    return {
        "name": member.name,
        "role": member.role.value,
        "device_class": member.device_class,
        "serial": member.serial,
        "valid_until_ms": member.not_after_ms,
        "is_revoked": member.revoked_at_ms is not None,
    }


def _hand_over(texts: tuple[str, ...], out: Path | None) -> None:
    if out is None:
        for text in texts:
            typer.echo(text)
        _say("each works once; hand it over as you would a password")
        return
    make_state_folder(out)
    for number, text in enumerate(texts, 1):
        write_whole(out / f"{number}.token", f"{text}\n".encode(), mode=0o600)
    _say(f"{len(texts)} tokens are in {out}")


def _address(text: str, name: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        msg = f"{name}: expected HOST:PORT, such as 0.0.0.0:8471, got {text!r}"
        raise ConfigError(msg)
    return host.strip("[]"), int(port)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
