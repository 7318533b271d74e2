"""A campaign's run and report as files, out of the store, also while the server runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from prunefleet_coordinator.archive import make_folder, write_run
from prunefleet_coordinator.report import campaign_report
from prunefleet_coordinator.report_model import report_json
from prunefleet_coordinator.store import SqlStore, Store
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import ConfigError

REPORT_FILE = "report.json"
_SQLITE = "sqlite:///"


@contextmanager
def opened(url: str) -> Iterator[SqlStore]:
    """The store at ``url``, which must be there: opening a SQLite file that is missing would make an empty one.

    Raises:
        ConfigError: There is none, or it cannot be used (the operator's to mend).
    """
    path = Path(url.removeprefix(_SQLITE))
    if url.startswith(_SQLITE) and not path.is_file():
        msg = f"{path}: expected the database of a coordinator; name its folder with --state"
        raise ConfigError(msg)
    with closing(SqlStore(url)) as store:
        yield store


def export_campaign(store: Store, campaign_id: str, out: Path, *, is_authority_built_in: bool) -> None:
    """Write the archive that ``replay`` recomputes, and ``report.json``, below ``out``.

    Args:
        store: The coordinator's; it is only read.
        campaign_id: A campaign in it.
        out: Made if need be; files of the same names are replaced, so that it may be called again as the campaign goes
            on.
        is_authority_built_in: The coordinator is the fleet's authority, too.

    Raises:
        ConfigError: The store cannot be read, or ``out`` cannot be written (the operator's to mend).
    """
    replay_command = f"prunefleet coordinator replay {out}"
    report = campaign_report(
        store, campaign_id, is_authority_built_in=is_authority_built_in, replay_command=replay_command
    )
    make_folder(out)
    write_run(out, store, campaign_id)
    write_whole(out / REPORT_FILE, report_json(report).encode())


def find_campaign(campaign_ids: Sequence[str], wanted: str | None) -> str:
    """The one campaign that is meant.

    Args:
        campaign_ids: All there are, oldest first.
        wanted: Its id, or how it begins; None: the newest.

    Raises:
        ConfigError: There is none, or more than one, of that name (the user's to mend).
    """
    if not campaign_ids:
        msg = "the store has no campaign yet; start one: prunefleet campaign start DIR"
        raise ConfigError(msg)
    if wanted is None:
        return campaign_ids[-1]
    found = [campaign_id for campaign_id in campaign_ids if campaign_id.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(campaign_id[:12] for campaign_id in (found or campaign_ids)[-10:])
        msg = f"campaign {wanted!r}: expected how exactly one id begins, got {len(found)}; there are: {known}"
        raise ConfigError(msg)
    return found[0]
