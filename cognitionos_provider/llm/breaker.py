"""Breakers: a model that keeps failing is left alone for a while, then tried with a single call.

Where a Redis answers, a breaker is one for all processes, and Redis' clock rules. Each process keeps one of its own
beside it, fed by its own calls, for when there is no Redis or none that answers. ``circuit.py`` has the rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal
from uuid import uuid4

from cognitionos_provider.llm.circuit import (
    ADMIT,
    ALLOWED,
    CLOSE,
    FAIL,
    LEAVE,
    PROBE,
    SLOTS,
    Admission,
    BreakerSettings,
    Circuit,
)
from cognitionos_provider.llm.shared import SharedState, SharedStateDown, background, to_the_end

__all__ = ["Admission", "BreakerSettings", "Breakers"]

# How old the copy of a closed breaker may be that is believed.
_BELIEVED_SECONDS = 0.25
_MOST_KEYS = 4096
_DEFAULTS = BreakerSettings()


class Breakers:
    """One breaker per key, which is the text ``connection/model``; for one event loop.

    Whoever is admitted reports once how the call ended, with the ``probe`` of its admission: :meth:`succeeded`,
    :meth:`failed` or :meth:`left`. A call that was admitted before the breaker opened changes nothing any more,
    but that a longer ``retry_after`` counts. Nothing here raises for a Redis that fails. ``clock`` counts seconds
    and never goes back.
    """

    def __init__(
        self,
        settings: BreakerSettings = _DEFAULTS,
        *,
        shared: SharedState | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._clock = clock
        self._circuits: dict[str, Circuit] = {}
        self._name = uuid4().hex

    async def admit(self, key: str, *, probe_seconds: float | None = None) -> Admission:
        """Ask whether a call may be sent; ``probe_seconds`` replaces that of the settings if it is the probe."""
        circuit = self._circuits.get(key) or self._new(key)
        if circuit.ends is None and self._redis_answers:
            if self._clock() - circuit.seen > _BELIEVED_SECONDS:
                await asyncio.shield(self._refresh(key, circuit))
            if circuit.ends is None:
                return ALLOWED
        seconds = self._settings.probe_seconds if probe_seconds is None else probe_seconds
        if self._redis_answers:

            async def give_back(verdict: int | None) -> None:
                await self.left(key, probe=verdict == 2)

            verdict = await to_the_end(self._tell(key, circuit, ADMIT, 1, seconds), undo=give_back)
            if verdict is not None:
                return (circuit.refusal(self._clock()), ALLOWED, PROBE)[verdict]
        return circuit.admit(self._clock(), seconds)

    async def succeeded(self, key: str, *, probe: bool) -> None:
        """Report that the provider answered."""
        circuit = self._circuits.get(key) or self._new(key)
        now = self._clock()
        late = circuit.ends is not None and not probe
        doubted = circuit.streak or circuit.shared_streak
        circuit.succeeded(now, self._settings, probe=probe)
        if late or not self._redis_answers:
            return
        circuit.unsent += 1
        if probe:
            await to_the_end(self._tell(key, circuit, CLOSE))
        elif doubted:
            # It ends a row of failures, which other processes must not go on counting.
            circuit.shared_streak = 0
            await to_the_end(self._tell(key, circuit, ADMIT, 0, 0))
        elif now - circuit.seen > _BELIEVED_SECONDS:
            self._refresh(key, circuit)

    async def failed(
        self,
        key: str,
        *,
        probe: bool,
        at_once: bool = False,
        retry_after: float | None = None,
        cooldown: float | None = None,
    ) -> float:
        """Report that the provider failed; returns the seconds for which the breaker is open now, 0.0 if it is not.

        ``at_once`` opens it on this failure alone (a used-up quota, a key that is not accepted). The cooldown
        takes at least ``cooldown`` and at least ``retry_after`` (RFC 9110, section 10.2.3), whatever the settings
        say.
        """
        circuit = self._circuits.get(key) or self._new(key)
        rules = self._settings
        asked = max(0.0, retry_after or 0.0)
        least = max(asked, cooldown or 0.0)
        circuit.failed(self._clock(), rules, probe=probe, at_once=at_once, asked=asked, least=least)
        if self._redis_answers:
            told = int(probe), int(at_once), asked, least
            opens = rules.consecutive, rules.share, rules.window_calls
            lasts = rules.cooldown_seconds, rules.max_cooldown_seconds
            await to_the_end(self._tell(key, circuit, FAIL, *told, *opens, *lasts))
        return max(0.0, circuit.ends - self._clock()) if circuit.ends is not None else 0.0

    async def left(self, key: str, *, probe: bool) -> None:
        """Report that the call ended without a word about the provider: it was cancelled, or never sent.

        If it was the probe, another call may be it at once.
        """
        circuit = self._circuits.get(key)
        if circuit is None or not probe:
            return
        circuit.probe_ends = None
        if self._redis_answers:
            await to_the_end(self._tell(key, circuit, LEAVE))

    def state(self, key: str) -> Literal["closed", "open", "half_open"]:
        """Tell the state as far as this process knows it, without asking Redis."""
        circuit = self._circuits.get(key)
        if circuit is None or circuit.ends is None:
            return "closed"
        return "open" if self._clock() < circuit.ends else "half_open"

    def states(self) -> dict[str, Literal["open", "half_open"]]:
        """Return the state of each breaker that is not closed, as far as this process knows it."""
        states = {key: self.state(key) for key in list(self._circuits)}
        return {key: state for key, state in states.items() if state != "closed"}

    @property
    def _redis_answers(self) -> bool:
        return self._shared is not None and not self._shared.down

    def _new(self, key: str) -> Circuit:
        if len(self._circuits) >= _MOST_KEYS:
            # Closed ones first, of those the oldest.
            by_use = sorted(self._circuits, key=lambda other: self._circuits[other].ends is not None)
            for other in by_use[: _MOST_KEYS // 8]:
                del self._circuits[other]
        circuit = self._circuits[key] = Circuit()
        return circuit

    def _refresh(self, key: str, circuit: Circuit) -> asyncio.Task[int | None]:
        """Ask Redis how it is, once for all who want to know at the same time."""
        if circuit.refresh is None or circuit.refresh.done():
            circuit.refresh = background(self._tell(key, circuit, ADMIT, 0, 0))
        return circuit.refresh

    async def _tell(self, key: str, circuit: Circuit, script: str, *arguments: float) -> int | None:
        """Run a script, adopt what it answers, and return its verdict; None where Redis does not answer."""
        if self._shared is None:
            return None
        successes, circuit.unsent = circuit.unsent, 0
        begun = self._clock()
        width = self._settings.window_seconds / SLOTS
        try:
            answer = await self._shared.run(
                script, [f"breaker:{key}"], [self._name, successes, width, *arguments]
            )
        except SharedStateDown:
            return None
        circuit.adopt(answer, begun, self._clock())
        return int(answer[0])
