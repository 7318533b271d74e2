"""What tests of any component need: simulated time, a scripted line, fixed keys, and a tiny campaign.

Shipped with the package, so that other people's carriers and devices can be tested against the same fakes. Everything
here is deterministic: no clock, no entropy, no thread.

>>> clock = SimClock()
>>> run_simulated(clock.sleep(3600.0), clock)
>>> clock()
3600.0
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.campaign import (
    PLAIN,
    Campaign,
    CohortPolicy,
    Decision,
    Level,
    PrivacyTerms,
    SlimBase,
    decision_fingerprint,
)
from prunefleet_shared.documents import digest, public_bytes, sign_document
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.limits import narrowest_widths
from prunefleet_shared.messages import Down, FetchModel, Invitation, ModelChunk, SessionKind, Up

T = TypeVar("T")

COORDINATOR_KEY = ec.derive_private_key(11, ec.SECP256R1())
"""Signs tiny campaigns and decisions; known to everyone, so worth nothing outside tests."""
TRAINER_KEY = ec.derive_private_key(13, ec.SECP256R1())
"""Signs tiny slim bases."""
COORDINATOR_PUBLIC = public_bytes(COORDINATOR_KEY.public_key())
TRAINER_PUBLIC = public_bytes(TRAINER_KEY.public_key())
TINY_BASE = b"a safetensors file, if you believe it"


# --- time ------------------------------------------------------------------------------------------------------------


class Deadlock(Exception):  # noqa: N818 - the name says it
    """Every task waits for another, and no timer is set: in the real world this would hang for ever."""


class SimClock:
    """Seconds that pass only when told to, or when everything in :func:`run_simulated` sleeps.

    Attributes:
        now_s: The time.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """The time, in seconds: the clock passes for the functions that components take."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass, as when a machine is suspended: timers that fall due meanwhile fire late."""
        self.now_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of simulated time."""
        await asyncio.sleep(seconds)


class _InstantSelector(selectors.SelectSelector):
    """Where an event loop would wait for its next timer, moves the clock there instead."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            msg = "everything waits, nothing is scheduled"
            raise Deadlock(msg)
        self._clock.advance(timeout)
        return []


class _SimLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SimClock) -> None:
        super().__init__(_InstantSelector(clock))
        self._sim_clock = clock

    def time(self) -> float:
        return self._sim_clock()


def run_simulated(main: Coroutine[Any, Any, T], clock: SimClock | None = None) -> T:
    """``asyncio.run`` in simulated time: single-threaded, in the same order every time, without waiting.

    Raises:
        Deadlock: Everything waits for something that can never happen.
    """
    simulated = clock or SimClock()
    with asyncio.Runner(loop_factory=lambda: _SimLoop(simulated)) as runner:
        return runner.run(main)


# --- lines -----------------------------------------------------------------------------------------------------------

Answer = Down | Exception | Callable[[Up], Down]


class ScriptedLink:
    """A line that gives the answers of a script, in order, and remembers what was said.

    Args:
        script: An answer each: a message, an exception to raise, or a function of the message.
        models: Models served by digest, outside the script.

    Attributes:
        sent: Every message, in order, those for models left out.
    """

    def __init__(self, script: Iterable[Answer], models: Iterable[bytes] = ()) -> None:
        self._script = iter(script)
        self._models = {digest(model): model for model in models}
        self.sent: list[Up] = []

    async def call(self, message: Up) -> Down:
        """The script's next answer.

        Raises:
            AssertionError: The script is over: the test expected fewer messages.
        """
        if isinstance(message, FetchModel) and message.digest in self._models:
            model = self._models[message.digest]
            return ModelChunk(len(model), model[message.offset : message.offset + 16])
        self.sent.append(message)
        answer = next(self._script, None)
        if answer is None:
            msg = f"nobody expected {message}"
            raise AssertionError(msg)
        if isinstance(answer, Exception):
            raise answer
        return answer(message) if callable(answer) else answer


# --- a campaign to play with -----------------------------------------------------------------------------------------


def tiny_campaign(**changes: Any) -> Campaign:
    """A valid campaign over 24 channels in two groups and two levels; ``changes`` replace fields."""
    layout = Layout((ChannelGroup("conv1", 8), ChannelGroup("conv2", 16)))
    table = CostTable("macs", (CostTerm(27, (0,)), CostTerm(9, (0, 1)), CostTerm(10, (1,))))
    dense = table.cost(layout.dense_widths)
    campaign = Campaign(
        campaign_id="c0" * 16,
        device_class="camera",
        privacy=PrivacyTerms(PLAIN, 1),
        model="tiny",
        base_digest=digest(TINY_BASE),
        layout=layout,
        cost_table=table,
        levels=(Level(500, dense // 2), Level(250, dense // 4)),
        public_order=tuple(tuple(range(n)) for n in layout.dense_widths),
        cohort=CohortPolicy(size=4, quorum=2, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC.hex(),
        slim_base_key=TRAINER_PUBLIC.hex(),
    )
    return replace(campaign, **changes)


def tiny_decision(campaign: Campaign, level: int = 0) -> Decision:
    """A decision within the budget of ``level`` for a :func:`tiny_campaign`: the narrowest there is."""
    widths = narrowest_widths(campaign.layout, campaign.limits)
    return Decision(
        campaign_id=campaign.campaign_id,
        level=level,
        widths=widths,
        prior=campaign.public_order,
        cost=campaign.cost_table.cost(widths),
        num_devices=2,
        tally_digest=digest(b"tally"),
        fingerprint=decision_fingerprint(campaign, level, (level,), widths, campaign.public_order),
    )


def tiny_slim_base(decision: Decision) -> tuple[SlimBase, bytes]:
    """What a trainer might answer to ``decision``: the document and the model's bytes."""
    model = f"slim base of level {decision.level}, decision {decision.fingerprint}".encode()
    slim_base = SlimBase(decision.campaign_id, decision.level, decision.fingerprint, digest(model), len(model))
    return slim_base, model


def invitation(kind: SessionKind, *, level: int = 0, attempt: int = 1, session: int = 1) -> Invitation:
    """An invitation to session number ``session``, without documents."""
    return Invitation(f"{session:032x}", kind, level, attempt, 60_000)


def outcome_invitation(decision: Decision, *, attempt: int = 1, session: int = 2) -> Invitation:
    """An invitation to try ``decision``, with both documents signed."""
    slim_base, _ = tiny_slim_base(decision)
    return replace(
        invitation(SessionKind.OUTCOME, level=decision.level, attempt=attempt, session=session),
        decision=sign_document("decision", decision, COORDINATOR_KEY),
        slim_base=sign_document("slim_base", slim_base, TRAINER_KEY),
    )
