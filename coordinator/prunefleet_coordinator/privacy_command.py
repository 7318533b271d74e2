"""``coordinator privacy``: finds the campaign that is meant, in a file or in the store, and says what it promises."""

from __future__ import annotations

from pathlib import Path

from prunefleet_coordinator.built_in_ca import is_built_in
from prunefleet_coordinator.export import find_campaign, opened
from prunefleet_coordinator.privacy_report import PrivacyReport, describe
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.document_file import read_signed
from prunefleet_shared.documents import SignedDocument, open_document
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError

CAMPAIGN_FILE = "campaign.json"


def report_of(wanted: str | None, state: Path, database_url: str) -> PrivacyReport:
    """What a campaign promises.

    Args:
        wanted: A campaign's file, its folder, its id or how that begins; None: the newest in the store.
        state: The coordinator's state folder.
        database_url: Its store.

    Raises:
        ConfigError: There is no such campaign (the user's to mend).
        InputError: The file is no campaign.
    """
    path = Path(wanted) if wanted else None
    if path is not None and path.exists():
        signed = read_signed(path / CAMPAIGN_FILE if path.is_dir() else path)
    else:
        signed = _stored(wanted, database_url)
    try:
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"{wanted or 'the campaign'}: {error}"
        raise InputError(msg) from None
    return describe(campaign, is_authority_built_in=is_built_in(state))


def _stored(wanted: str | None, database_url: str) -> SignedDocument:
    with opened(database_url) as store:
        campaign_id = find_campaign([row.campaign_id for row in store.list_campaigns()], wanted)
        signed = store.load_document(campaign_id, "campaign", 0)
    if signed is None:
        msg = f"campaign {campaign_id} is missing from the store; restore a backup"
        raise ConfigError(msg)
    return signed
