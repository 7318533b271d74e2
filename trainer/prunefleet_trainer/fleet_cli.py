"""The ``fleet`` commands: an operator's client of the authority."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.roles import Role

if TYPE_CHECKING:
    from prunefleet_shared.authority_messages import CreateTokens, Member

app = typer.Typer(no_args_is_help=True, help="Let members in, see who is there, put members out.")

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder with the operator's key and certificate.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MAX_TOKENS = 1000


@app.command()
def tokens(
    *,
    name: Annotated[str | None, typer.Option(help="The one new member's name.")] = None,
    group: Annotated[str | None, typer.Option(help="What the new members' names start with.")] = None,
    role: Annotated[str, typer.Option(help="device or trainer.")] = "device",
    device_class: Annotated[str, typer.Option("--class", help="Class of the devices.")] = "",
    count: Annotated[int, typer.Option(min=1, max=MAX_TOKENS, help="How many, with --group.")] = 1,
    ttl: Annotated[str, typer.Option(help="How long each may be used: 90s, 24h, 7d.")] = "24h",
    out: Annotated[Path | None, typer.Option(help="Folder for one file per token; else they are printed.")] = None,
    state: StateOption = None,
) -> None:
    """Make one-time join tokens; each is shown once."""
    wish = _wish(name, group, role, device_class, count, ttl)
    import asyncio

    from prunefleet_trainer.token_files import prepare, write_tokens

    if out:
        prepare(out)
    made = asyncio.run(_create(_state(state), wish))
    if out:
        paths = write_tokens(out, made)
        _say(f"{len(paths)} token{'s' if len(paths) != 1 else ''} written to {out}, each good once within {ttl}")
        return
    typer.echo("\n".join(made))
    command = "trainer join" if wish.role is Role.TRAINER else "edge join"
    _say(f"each lets in one {wish.role}, once, within {ttl}; there: prunefleet {command} TOKEN")


def _wish(name: str | None, group: str | None, role: str, device_class: str, count: int, ttl: str) -> CreateTokens:
    from prunefleet_shared.authority_messages import CreateTokens
    from prunefleet_shared.durations import parse_duration_s

    if (name is None) == (group is None):
        msg = "expected either --name NAME (one member) or --group PREFIX (any number), got both or neither"
        raise ConfigError(msg)
    if name is not None and count != 1:
        msg = f"--count {count}: a name is one member's; use --group PREFIX for several"
        raise ConfigError(msg)
    if role not in (Role.DEVICE, Role.TRAINER):
        msg = f"--role: expected device or trainer, got {role!r}; other roles' tokens come from `prunefleet ca token`"
        raise ConfigError(msg)
    if (role == Role.DEVICE) != bool(device_class):
        msg = "--class: expected for devices, and for devices only"
        raise ConfigError(msg)
    valid_for_s = parse_duration_s(ttl, "--ttl")
    return CreateTokens(Role(role), name or group or "", group is not None, count, valid_for_s, device_class)


async def _create(state: Path, wish: CreateTokens) -> tuple[str, ...]:
    from prunefleet_trainer.membership import member_link
    from prunefleet_trainer.operator_calls import create_tokens

    async with member_link(state, Role.OPERATOR, to_authority=True) as link:
        return await create_tokens(link, wish)  # asked once: tokens whose answer is lost end by themselves


@app.command("revoke")
def revoke_member(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `fleet list` shows it.")],
    state: StateOption = None,
) -> None:
    """Put a member out: its certificates are refused within seconds, also on open connections."""
    import asyncio

    asyncio.run(_revoke(_state(state), name))
    _say(f"{name} is revoked; the coordinator refuses it within seconds (`campaign status` shows the deny-list's age)")


async def _revoke(state: Path, name: str) -> None:
    from prunefleet_trainer.membership import PatientLink, member_link
    from prunefleet_trainer.operator_calls import revoke

    async with member_link(state, Role.OPERATOR, to_authority=True) as link:
        await revoke(PatientLink(link), name)


@app.command("list")
def list_fleet(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show who has joined, in what role, until when, and who is revoked."""
    import asyncio

    members = asyncio.run(_list(_state(state)))
    if as_json:
        typer.echo(json.dumps([_member_json(member) for member in members], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "role", "until (UTC)", ""):
        table.add_column(column, no_wrap=True)
    now_ms = datetime.now(UTC).timestamp() * 1000
    for member in members:
        standing = "revoked" if member.is_revoked else "expired" if member.valid_until_ms < now_ms else ""
        table.add_row(member.name, member.role, f"{_until(member):%Y-%m-%d %H:%M}", standing)
    Console().print(table)


async def _list(state: Path) -> list[Member]:
    from prunefleet_trainer.membership import PatientLink, member_link
    from prunefleet_trainer.operator_calls import list_members

    async with member_link(state, Role.OPERATOR, to_authority=True) as link:
        return await list_members(PatientLink(link))


def _member_json(member: Member) -> dict[str, str | bool]:
    return {
        "name": member.name,
        "role": member.role,
        "public_key": member.public_key.hex(),
        "valid_until": _until(member).isoformat(timespec="seconds"),
        "is_revoked": member.is_revoked,
    }


def _until(member: Member) -> datetime:
    return datetime.fromtimestamp(member.valid_until_ms / 1000, UTC)


def _state(state: Path | None) -> Path:
    from prunefleet_shared.identity_folder import default_state

    return state or default_state(Role.OPERATOR)


def _say(words: str) -> None:
    typer.echo(words, err=True)
