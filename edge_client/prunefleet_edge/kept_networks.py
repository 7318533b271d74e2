"""Which of the networks that a device made are in service, as files; no torch here.

In a campaign that judges nothing, the network kept for a level is in service at once (``level-N.safetensors``). Where
decisions are judged, it is **on trial** until it is ruled on: promoted, it goes into service under a name of its own,
so that what was in service before stays; rolled back, it is removed, in service or not. The newest file in service is
the one to run; when none is left, what ran before the device's first campaign is: the dense network.

Following a ruling twice does the same as following it once, so a device that dies in between follows it again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import ConfigError

_ID_DIGITS = 16
_TRIAL = re.compile(r"trial-(?P<level>\d+)-(?P<campaign>[0-9a-f]{16})\.safetensors")
_IN_SERVICE = re.compile(r"level-(?P<level>\d+)-(?P<campaign>[0-9a-f]{16})\.safetensors")
IN_SERVICE_GLOB = "level-*.safetensors"


def file_name(campaign: Campaign, level: int) -> str:
    """Name of the file for the network that a device keeps for a level: in service, or on trial where it is judged."""
    if campaign.acceptance is None:
        return f"level-{level}.safetensors"
    return f"trial-{level}-{campaign.campaign_id[:_ID_DIGITS]}.safetensors"


def service_name(campaign: Campaign, level: int) -> str:
    """Name of the file for a network that is in service from the start: a slim base, on a device without data."""
    if campaign.acceptance is None:
        return file_name(campaign, level)
    return f"level-{level}-{campaign.campaign_id[:_ID_DIGITS]}.safetensors"


@dataclass(frozen=True, slots=True)
class Followed:
    """What a ruling did to a device's networks.

    Attributes:
        in_service: Levels of the campaign whose networks are in service now, rising.
        rolled_back: Levels whose networks were removed.
    """

    in_service: tuple[int, ...]
    rolled_back: tuple[int, ...]


class KeptNetworks(Protocol):
    """The networks of one device."""

    def note_trial(self, campaign: Campaign, level: int) -> None:
        """A network was made for a level of a judged campaign, and is on trial."""
        ...

    def follow(self, ruling: Ruling) -> Followed:
        """Put into service what was promoted, and remove what was rolled back.

        Raises:
            ConfigError: The files cannot be moved or removed (the owner's to mend).
        """
        ...

    def drop_trials(self, campaign_id: str) -> None:
        """Remove what is on trial in other campaigns than this: nobody will rule on it any more.

        Raises:
            ConfigError: The files cannot be removed (the owner's to mend).
        """
        ...


class KeptInMemory:
    """Remembers levels and keeps no file: for tests and the simulation."""

    def __init__(self) -> None:
        self.on_trial: set[tuple[str, int]] = set()
        self.in_service: set[tuple[str, int]] = set()

    def note_trial(self, campaign: Campaign, level: int) -> None:
        """See :class:`KeptNetworks`."""
        self.on_trial.add((campaign.campaign_id, level))

    def follow(self, ruling: Ruling) -> Followed:
        """See :class:`KeptNetworks`."""
        own = {known for known in self.on_trial | self.in_service if known[0] == ruling.campaign_id}
        held = {known for known in own if known[1] in ruling.levels_held}
        self.on_trial -= own
        self.in_service = (self.in_service - own) | held
        return Followed(tuple(sorted(n for _, n in held)), tuple(sorted(n for _, n in own - held)))

    def drop_trials(self, campaign_id: str) -> None:
        """See :class:`KeptNetworks`."""
        self.on_trial = {known for known in self.on_trial if known[0] == campaign_id}


class KeptFolder:
    """The networks in a folder, where the worker process has written them (:func:`file_name`).

    Args:
        folder: It need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note_trial(self, campaign: Campaign, level: int) -> None:
        """Nothing to do: the file is there."""

    def follow(self, ruling: Ruling) -> Followed:
        """See :class:`KeptNetworks`."""
        campaign, in_service, rolled_back = ruling.campaign_id[:_ID_DIGITS], set(), set()
        try:
            for path, level in [*self._found(_TRIAL, campaign), *self._found(_IN_SERVICE, campaign)]:
                if level in ruling.levels_held:
                    path.replace(self._folder / f"level-{level}-{campaign}.safetensors")
                    in_service.add(level)
                else:
                    path.unlink(missing_ok=True)
                    rolled_back.add(level)
        except OSError as error:
            raise self._cannot(error) from None
        return Followed(tuple(sorted(in_service)), tuple(sorted(rolled_back)))

    def drop_trials(self, campaign_id: str) -> None:
        """See :class:`KeptNetworks`."""
        try:
            for path in self._folder.glob("trial-*.safetensors"):
                found = _TRIAL.fullmatch(path.name)
                if found and found["campaign"] != campaign_id[:_ID_DIGITS]:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot(error) from None

    def _found(self, pattern: re.Pattern[str], campaign: str) -> list[tuple[Path, int]]:
        names = [(path, pattern.fullmatch(path.name)) for path in sorted(self._folder.glob("*.safetensors"))]
        return [(path, int(found["level"])) for path, found in names if found and found["campaign"] == campaign]

    def _cannot(self, error: OSError) -> ConfigError:
        msg = f"{self._folder}: a network cannot be moved or removed: {error.strerror}; look at the folder"
        return ConfigError(msg)


def ruling_words(ruling: Ruling, followed: Followed) -> str:
    """What was ruled and what came of it here, for the device's owner."""
    what = "was promoted" if ruling.is_promoted else "was rolled back"
    why = f"{ruling.num_worse} of {ruling.num_devices} devices are worse off, {ruling.max_worse} may be"
    removed = "".join(f"; removed here: level {level}" for level in followed.rolled_back)
    now = f"level {max(followed.in_service)}" if followed.in_service else "what was before this campaign"
    return f"level {ruling.level} {what} ({why}){removed}; in service: {now}"
