"""Which networks are on trial, in service, or removed: as files."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ruling_parts import CAMPAIGN, ruling_of

from prunefleet_edge.kept_networks import Followed, KeptFolder, KeptInMemory, file_name, ruling_words
from prunefleet_edge.status import Status, StatusFile, kept_facts, read_status, status_text
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.testing import (
    tiny_campaign,
)


def make(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SHORT = CAMPAIGN.campaign_id[:16]
EARLIER = "level-1.safetensors"  # of a campaign before, that judged nothing
OTHERS = f"level-0-{'99' * 8}.safetensors"  # of a campaign before, that did


@pytest.mark.parametrize(
    ("before", "ruling", "after"),
    [
        ([f"trial-0-{SHORT}.safetensors"], ruling_of(0, 0), [f"level-0-{SHORT}.safetensors"]),
        ([f"trial-0-{SHORT}.safetensors"], ruling_of(0), []),
        (
            [f"level-0-{SHORT}.safetensors", f"trial-1-{SHORT}.safetensors"],
            ruling_of(1, 0),
            [f"level-0-{SHORT}.safetensors"],
        ),
        (  # promoted by canaries, rolled back in the rollout
            [f"level-0-{SHORT}.safetensors", f"level-1-{SHORT}.safetensors"],
            ruling_of(1, 0, is_rollout=True),
            [f"level-0-{SHORT}.safetensors"],
        ),
        (  # it slept through the ruling on level 0, and hears only of level 1
            [f"trial-0-{SHORT}.safetensors"],
            ruling_of(1, 0, number=2),
            [f"level-0-{SHORT}.safetensors"],
        ),
        ([], ruling_of(1), []),
    ],
)
def test_what_is_promoted_goes_into_service_and_what_is_rolled_back_goes(
    tmp_path: Path, before: list[str], ruling: Ruling, after: list[str]
) -> None:
    make(tmp_path / "kept", EARLIER, OTHERS, *before)
    kept, memory = KeptFolder(tmp_path / "kept"), KeptInMemory()
    for name in before:
        known = memory.on_trial if name.startswith("trial") else memory.in_service
        known.add((CAMPAIGN.campaign_id, int(name[6])))
    followed = kept.follow(ruling)
    assert names_in(tmp_path / "kept") == {EARLIER, OTHERS, *after}, "what was there before the campaign stays"
    assert followed == memory.follow(ruling)
    assert kept.follow(ruling) == replace(followed, rolled_back=())  # a device that died before it saved


def test_a_network_on_trial_is_not_the_one_in_service(tmp_path: Path) -> None:
    make(tmp_path / "kept", f"trial-0-{SHORT}.safetensors")
    assert kept_facts(tmp_path / "kept") is None
    KeptFolder(tmp_path / "kept").follow(ruling_of(0, 0))
    facts = kept_facts(tmp_path / "kept")
    assert facts is not None
    assert str(facts["path"]).endswith(f"level-0-{SHORT}.safetensors")


def test_a_device_that_was_never_asked_has_nothing_to_follow_with(tmp_path: Path) -> None:
    assert KeptFolder(tmp_path / "nothing").follow(ruling_of(0)) == Followed((), ())


def test_what_is_on_trial_in_another_campaign_is_dropped(tmp_path: Path) -> None:
    make(tmp_path, "trial-0-" + "99" * 8 + ".safetensors", f"trial-1-{SHORT}.safetensors", OTHERS)
    KeptFolder(tmp_path).drop_trials(CAMPAIGN.campaign_id)
    assert names_in(tmp_path) == {f"trial-1-{SHORT}.safetensors", OTHERS}


def test_only_where_decisions_are_judged_a_network_is_on_trial() -> None:
    assert file_name(CAMPAIGN, 1) == f"trial-1-{SHORT}.safetensors"
    assert file_name(tiny_campaign(), 1) == "level-1.safetensors"


def test_an_owner_is_told_what_was_ruled_and_what_is_in_service() -> None:
    words = ruling_words(ruling_of(1, 0), Followed((0,), (1,)))
    assert words == (
        "level 1 was rolled back (7 of 10 devices are worse off, 1 may be); removed here: level 1; in service: level 0"
    )
    assert ruling_words(ruling_of(0), Followed((), ())).endswith("in service: what was before this campaign")


def test_the_last_ruling_stays_in_the_status_until_there_is_another(tmp_path: Path) -> None:
    first = Status("d", "c", "starting", "", None, "", None, "", "", "", 0, (), "", 1)
    status = StatusFile(tmp_path / "status.json", first)
    for words in ("level 0 was promoted", "", "level 1 was rolled back", ""):
        status.says("checking in", campaign_id="c", level=0, resting_s=None, last_ruling=words)
    told = read_status(tmp_path / "status.json")
    assert told.last_ruling == "level 1 was rolled back"
    assert "last ruling: level 1 was rolled back" in status_text(told, None, datetime.now(UTC))
