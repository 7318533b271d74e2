"""What an operator asks of the coordinator and of the authority: plain functions over a line."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import TypeVar

from prunefleet_shared.authority_messages import (
    CreateTokens,
    ListMembers,
    Member,
    MemberList,
    Revoke,
    Revoked,
    TokenList,
)
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError, RejectReason, reject
from prunefleet_shared.messages import (
    CampaignStatus,
    Control,
    ControlCampaign,
    Down,
    FleetStatus,
    GetStatus,
    Link,
    Phase,
    StartCampaign,
    Stored,
    Up,
)
from prunefleet_shared.roles import Role
from prunefleet_shared.wire_limits import MAX_PAGE
from prunefleet_trainer.model_transfer import upload_model

T = TypeVar("T")
ENDED = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.STOPPED})


async def start_campaign(
    link: Link, campaign: SignedDocument, base: bytes, on_sent: Callable[[int], None] | None = None
) -> None:
    """Upload a campaign's base, then start it; harmless when it runs already.

    Raises:
        RemoteProtocolError: The coordinator does not want it, with the reason.
        CarrierError: It cannot be reached.
    """
    await upload_model(link, base, on_sent)
    await _asked(link, StartCampaign(campaign), Stored)


async def control_campaign(link: Link, campaign_id: str, control: Control) -> None:
    """Pause, resume or stop a campaign.

    Raises:
        RemoteProtocolError: ``WRONG_CAMPAIGN``: there is none of this id, or it has ended.
        CarrierError: The coordinator cannot be reached.
    """
    await _asked(link, ControlCampaign(campaign_id, control), Stored)


async def get_status(link: Link) -> FleetStatus:
    """Where every campaign stands.

    Raises:
        RemoteProtocolError: The coordinator refused.
        CarrierError: It cannot be reached.
    """
    return await _asked(link, GetStatus(), FleetStatus)


async def list_members(link: Link, role: Role | None = None) -> list[Member]:
    """Everyone who has joined, by name.

    Raises:
        RemoteProtocolError: The authority refused.
        CarrierError: It cannot be reached.
    """
    members: list[Member] = []
    while True:
        after_name = members[-1].name if members else ""
        page = (await _asked(link, ListMembers(role, after_name), MemberList)).members
        if page and page[0].name <= after_name:
            raise reject(RejectReason.MALFORMED, expected="members in order of names", got="the same page again")
        members += page
        if len(page) < MAX_PAGE:
            return members


async def create_tokens(link: Link, wish: CreateTokens) -> tuple[str, ...]:
    """Fresh join tokens; shown once.

    Raises:
        RemoteProtocolError: The authority refused.
        CarrierError: It cannot be reached.
    """
    tokens = (await _asked(link, wish, TokenList)).tokens
    if len(tokens) != wish.num_tokens:
        raise reject(RejectReason.MALFORMED, expected=f"{wish.num_tokens} tokens", got=f"{len(tokens)}")
    return tokens


async def revoke(link: Link, name: str) -> None:
    """Put a member's certificates on the deny-list.

    Raises:
        RemoteProtocolError: The authority refused; ``NOT_FOUND``: nobody of this name.
        CarrierError: It cannot be reached.
    """
    await _asked(link, Revoke(name), Revoked)


async def _asked(link: Link, message: Up, kind: type[T]) -> T:
    answer: Down = await link.call(message)
    if isinstance(answer, kind):
        return answer
    raise reject(RejectReason.MALFORMED, expected=f"a {kind.__name__}", got=f"a {type(answer).__name__}")


def choose_campaign(status: FleetStatus, prefix: str | None) -> CampaignStatus:
    """The one campaign that an operator means.

    Args:
        status: What there is.
        prefix: Beginning of its id; None when there is only one that has not ended.

    Raises:
        ConfigError: None, or more than one (the user's to mend).
    """
    live = [campaign for campaign in status.campaigns if campaign.phase not in ENDED]
    among = live if prefix is None else [c for c in status.campaigns if c.campaign_id.startswith(prefix.lower())]
    if len(among) == 1:
        return among[0]
    known = _listed(among or status.campaigns)
    if prefix is None and not live:
        msg = f"no campaign is live (known: {known}); start one with `prunefleet campaign start DIR`"
    elif among:
        msg = f"CAMPAIGN_ID: expected one campaign, got {len(among)} ({known}); give more of its id"
    else:
        msg = f"CAMPAIGN_ID: expected the beginning of a campaign's id, got {prefix!r} (known: {known})"
    raise ConfigError(msg)


def _listed(campaigns: Iterable[CampaignStatus]) -> str:
    named = [f"{c.campaign_id[:8]} {c.device_class} {c.phase.name.lower()}" for c in campaigns]
    return ", ".join(named[:8]) or "none"


def choose_key(members: Iterable[Member], role: Role, name: str | None) -> bytes:
    """The public key (DER) of the coordinator or trainer that a campaign shall name.

    Args:
        members: Those of the authority, of this role.
        role: Which role; for the error.
        name: Its name; None when there is only one that is not revoked.

    Raises:
        ConfigError: None, or more than one (the user's to mend).
    """
    good = [member for member in members if member.role is role and not member.is_revoked]
    among = good if name is None else [member for member in good if member.name == name]
    if len(among) == 1:
        return among[0].public_key
    known = ", ".join(member.name for member in good[:20]) or "none has joined"
    wanted = f"one {role}" if name is None else f"the {role} {name!r}"
    remedy = f"choose with --{role} NAME" if good else f"create a token, and let it join: prunefleet {role} join TOKEN"
    msg = f"{role}: expected {wanted}, got {known}; {remedy}"
    raise ConfigError(msg)


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
