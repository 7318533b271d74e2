"""A campaign as a folder: the signed document and the base's weights.

::

    DIR/campaign.json       signed by the operator
    DIR/base.safetensors    of the digest that the campaign names

Of campaigns that were made together, one for each device class, each is a folder ``DIR/CLASS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.document_file import read_signed, write_signed, write_whole
from prunefleet_shared.documents import SignedDocument, digest, open_document
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError

CAMPAIGN_FILE = "campaign.json"
BASE_FILE = "base.safetensors"


@dataclass(frozen=True, slots=True)
class CampaignFiles:
    """A campaign that verifies, and its base."""

    signed: SignedDocument
    campaign: Campaign
    base: bytes


def campaign_folders(folder: Path) -> list[Path]:
    """``folder`` itself if it holds a campaign; else the folders in it that do, one for each class, by name."""
    if (folder / CAMPAIGN_FILE).exists():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CAMPAIGN_FILE}")) or [folder]


def check_free(folder: Path) -> None:
    """Refuse a folder that holds a campaign already.

    Raises:
        ConfigError: It does (the user's to mend).
    """
    if (folder / CAMPAIGN_FILE).exists():
        msg = f"{folder}: holds a campaign already; choose another folder"
        raise ConfigError(msg)


def write_campaign(folder: Path, signed: SignedDocument, base: bytes) -> None:
    """Write both files; the document comes last, so that a folder that has it is complete.

    Raises:
        ConfigError: The folder cannot be written (the user's to mend).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: expected a folder to write to, got {error.strerror}"
        raise ConfigError(msg) from None
    write_whole(folder / BASE_FILE, base)
    write_signed(folder / CAMPAIGN_FILE, signed)


def read_campaign(folder: Path, operator_keys: Sequence[bytes]) -> CampaignFiles:
    """Read and check both files.

    Args:
        folder: Made by :func:`write_campaign`.
        operator_keys: Whose signature is good, DER each.

    Raises:
        InputError: A file is missing, changed since it was signed, or signed by somebody else (the user's to mend).
    """
    path = folder / CAMPAIGN_FILE
    signed = read_signed(path)
    if signed.public_key not in operator_keys:
        who = f"key {digest(signed.public_key)[:12]}, which is no operator's of this fleet"
        msg = f"{path}: signed by {who}; create it again with `prunefleet campaign create`"
        raise InputError(msg)
    try:
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"{path}: {error}; it was changed after it was signed: create it again"
        raise InputError(msg) from None
    return CampaignFiles(signed, campaign, _read_base(folder / BASE_FILE, campaign))


def _read_base(path: Path, campaign: Campaign) -> bytes:
    try:
        base = path.read_bytes()
    except OSError as error:
        msg = f"{path}: expected the campaign's base, got {error.strerror}"
        raise InputError(msg) from None
    if digest(base) != campaign.base_digest:
        msg = f"{path}: expected digest {campaign.base_digest[:12]}, got {digest(base)[:12]}; create the campaign again"
        raise InputError(msg)
    return base
