"""A device without data in one campaign, as a state machine without I/O: it takes networks, and never says anything.

The story: check in with ``NO_DATA`` → be offered a slim base → keep it as it is → save that it is kept → check in
again … until the campaign ends. It has no command that votes or measures, so there is nothing that it could send by
mistake; an invitation never gets here (``verified_link`` refuses it).

What it remembers is the level of the slim base that it runs. A device that dies between keeping and saving is offered
the same one again, and keeps it again.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from prunefleet_edge.backoff import MIN_REST_S, Backoff, RetryPolicy, rest_s
from prunefleet_edge.device_state import DeviceState
from prunefleet_edge.events import (
    Command,
    Event,
    KeepSlimBase,
    LinkFailed,
    Refused,
    Rest,
    SaveState,
    SendCheckIn,
    SlimBaseHeard,
    SlimBaseKept,
    Stop,
    ToldToComeBack,
)
from prunefleet_edge.invitation_rules import why_slim_base_wrong
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import CarrierError, LayoutError, LocalProtocolError, PrunefleetError, RemoteProtocolError
from prunefleet_shared.messages import CampaignEnded, CheckIn, Ending, Readiness


class ConsumerRound:
    """A device without data in one campaign; see the module's story.

    Args:
        campaign: The verified campaign.
        layout_fingerprint: Of the network this device traced, 64 hex digits.
        state: What was last saved for this campaign; None for a first start.
        rng: Draws rests and waits.
        retries: How long to keep trying; None for the default.

    Raises:
        LayoutError: The device traced another network than the campaign's.
    """

    def __init__(
        self,
        campaign: Campaign,
        layout_fingerprint: str,
        state: DeviceState | None,
        rng: random.Random,
        *,
        retries: RetryPolicy | None = None,
    ) -> None:
        expected = campaign.layout.fingerprint()
        if layout_fingerprint != expected:
            msg = f"the campaign's layout is {expected[:12]}, this device traced {layout_fingerprint[:12]}; update it"
            raise LayoutError(msg)
        self._campaign, self._fingerprint, self._rng = campaign, layout_fingerprint, rng
        self._state = state or DeviceState(campaign.campaign_id)
        self._backoff = Backoff(retries or RetryPolicy(), rng)
        self._wakeup_s = -math.inf  # the first check-in is due at once
        self._kept_level: int | None = None  # of the slim base that is being kept
        self._is_resting = True

    @property
    def state(self) -> DeviceState:
        """What the last :class:`SaveState` saved, or what the machine was made from."""
        return self._state

    @property
    def busy_check_in(self) -> CheckIn:
        """The one thing it ever says."""
        heard = self._state.slim_base_heard
        return CheckIn(self._campaign.campaign_id, self._fingerprint, Readiness.NO_DATA, slim_base_heard=heard)

    def tick(self, now_s: float) -> list[Command]:
        """Check in if the rest is over."""
        if not self._is_resting or now_s < self._wakeup_s:
            return []
        self._is_resting = False
        return [SendCheckIn(self.busy_check_in)]

    def receive(self, event: Event, now_s: float) -> list[Command]:
        """Take what happened, return what to do, in order.

        Raises:
            LocalProtocolError: The event cannot happen now (our bug); nothing has changed.
        """
        if self._is_resting or isinstance(event, SlimBaseKept) is (self._kept_level is None):
            msg = f"{type(event).__name__} on a device without data, which was not waiting for it"
            raise LocalProtocolError(msg)
        match event:
            case SlimBaseHeard():
                return self._on_heard(event)
            case SlimBaseKept():
                return self._on_kept(now_s)
            case ToldToComeBack(after_s):
                self._backoff.reset()
                return self._rest(rest_s(after_s, self._rng), "waiting for a network", now_s)
            case CampaignEnded(ending):
                return self._on_ended(ending)
            case Refused(rejection):
                return self._stop(RemoteProtocolError(rejection))
            case LinkFailed(message, retryable):
                return self._on_link_failed(message, now_s, retryable=retryable)
            case _:
                msg = f"{type(event).__name__} on a device without data"
                raise LocalProtocolError(msg)

    def _on_heard(self, heard: SlimBaseHeard) -> list[Command]:
        wrong = why_slim_base_wrong(self._campaign, heard)
        if wrong is not None:
            return self._stop(RemoteProtocolError(wrong))
        self._backoff.reset()
        self._kept_level = heard.decision.level
        return [KeepSlimBase(heard.decision, heard.slim_base)]

    def _on_kept(self, now_s: float) -> list[Command]:
        self._state = replace(self._state, slim_base_heard=1 + (self._kept_level or 0))
        self._kept_level = None
        return [SaveState(self._state), *self._rest(MIN_REST_S, "kept the slim base", now_s)]

    def _on_ended(self, ending: Ending) -> list[Command]:
        is_judged = self._campaign.acceptance is not None  # such a campaign is offered until its end was heard
        self._state = replace(self._state, is_over=is_judged)
        return [SaveState(self._state), Stop(ending)]

    def _on_link_failed(self, message: str, now_s: float, *, retryable: bool) -> list[Command]:
        delay_s = self._backoff.next_delay_s(now_s) if retryable else None
        if delay_s is None:
            return self._stop(CarrierError(message, retryable=retryable))
        return self._rest(delay_s, message, now_s)

    def _rest(self, delay_s: float, why: str, now_s: float) -> list[Command]:
        self._is_resting, self._wakeup_s = True, now_s + delay_s
        return [Rest(delay_s, why)]

    def _stop(self, error: PrunefleetError) -> list[Command]:
        return [Stop(None, error)]
