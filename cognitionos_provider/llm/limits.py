"""Limits: how many calls are in flight, and how many requests and tokens a minute a model is sent.

A call that has no room yet waits. Per key, one waiting call at a time has the *turn*. Groups (the runs) have it round
robin, and a group's calls in the order they came, so that a run with one call never waits behind another's thousand.
Whoever has the turn

1. waits for a place in this process,
2. books a slot of the rates and sleeps until it comes,
3. takes a place among all processes, where they share a Redis, and passes the turn on.

A slot is booked in the call's turn, so that nobody finds the next minute booked by one who came earlier with much to
do. It is booked before the shared place is taken, so that nobody holds a place while asleep. The price is that one
call per process and key may be sent later than its slot, if it waits for a shared place.

Where no Redis answers, each process has the limits for itself. ``rates.py`` has the rule of the rates.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from cognitionos_provider.llm.connection import Limits
from cognitionos_provider.llm.gate import Gate
from cognitionos_provider.llm.rates import BOOK, CORRECT, NAMES, Charge, charge, cost
from cognitionos_provider.llm.shared import SharedState, SharedStateDown, background, to_the_end

__all__ = ["Gates", "NoRoomError", "Permit"]

# How long a shared place outlasts the most that its call may take: event loops get stuck.
_MARGIN_SECONDS = 5.0
# Between two requests for a shared place. Chance keeps processes out of step.
_PAUSE_SECONDS = (0.02, 0.1)
_MOST_KEYS = 4096


class NoRoomError(Exception):
    """The call can't be sent in time; ``limit`` names what is in its way ("max_in_flight of 8").

    ``wait`` is the seconds that it would have to wait as far as known: until its slot for a rate, else those
    that it was ready to wait.
    """

    def __init__(self, wait: float, limit: str) -> None:
        super().__init__(f"The call would have to wait for {wait:.3g} s or more, due to {limit}")
        self.wait = wait
        self.limit = limit


class Permit:
    """A call that is in flight."""

    __slots__ = ("_tokens", "excess")

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.excess = 0
        """The tokens that the call took beyond the estimate."""

    def used(self, tokens: int) -> None:
        """Say how many tokens the call really took; the rate is corrected when it leaves."""
        self.excess = tokens - self._tokens


class Gates:
    """One gate per key, which is the text ``connection/model``; for one event loop.

    ``default_in_flight`` bounds the calls of one process where ``max_in_flight`` is not set. ``clock`` (seconds,
    monotonic) and ``sleep`` are parameters so that tests need not wait. Nothing here raises for a Redis that fails.
    """

    def __init__(
        self,
        *,
        shared: SharedState | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        default_in_flight: int = 1000,
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._sleep = sleep
        self._default_in_flight = default_in_flight
        self._gates: dict[str, Gate] = {}

    @asynccontextmanager
    async def enter(
        self,
        key: str,
        limits: Limits,
        *,
        tokens: int,
        group: str,
        timeout: float,  # noqa: ASYNC109 - it bounds the wait, not the block
        hold_seconds: float = 300.0,
    ) -> AsyncIterator[Permit]:
        """Wait at most ``timeout`` seconds until the call may be sent; it is in flight until the block ends.

        ``tokens`` is an estimate of its input and output together. ``hold_seconds`` is the most that the block
        may take: 5 s after that, the shared place of a process that died is free again.

        Raises :class:`NoRoomError`, at once where the wait is known. A call that does not get in, or is cancelled
        while it waits, has taken nothing. One that got in has spent its slot, however it ends; ``used(0)`` gives
        the tokens back.
        """
        gate = self._gates.get(key) or self._new(key)
        deadline = self._clock() + timeout
        if gate.asleep_until > deadline:
            raise NoRoomError(gate.asleep_until - self._clock(), gate.obstacle)
        capacity = limits.max_in_flight or self._default_in_flight
        in_flight = f"{'max' if limits.max_in_flight else 'default'}_in_flight of {capacity}"
        costs = charge(limits, tokens)
        try:
            await gate.turn(group, timeout)
        except TimeoutError:
            raise NoRoomError(timeout, gate.obstacle) from None
        try:
            gate.obstacle = in_flight
            if gate.in_flight >= capacity:
                await gate.place(capacity, deadline - self._clock())
            if costs is not None:
                await self._slot(key, gate, limits, costs, deadline)
            try:
                gate.obstacle = in_flight
                lease = await self._lease(key, limits.max_in_flight, deadline, hold_seconds)
            except BaseException:
                if costs is not None:
                    self._give_back(key, gate, costs)
                raise
            gate.in_flight += 1
        except TimeoutError:
            raise NoRoomError(timeout, gate.obstacle) from None
        finally:
            gate.pass_on()
        permit = Permit(tokens)
        try:
            yield permit
        finally:
            excess = cost(limits.tokens_per_minute, permit.excess).seconds if permit.excess else 0.0
            gate.rates.correct(self._clock(), 0.0, excess)
            if lease is not None or (excess and self._redis_answers):
                await to_the_end(self._leave(key, gate, lease, excess))
            else:
                gate.leave()

    async def _slot(self, key: str, gate: Gate, limits: Limits, costs: Charge, deadline: float) -> None:
        """Book a slot and sleep until it comes."""
        most = max(0.0, deadline - self._clock())
        if self._redis_answers:

            async def give_back(delay: float | None) -> None:
                if delay is not None:
                    self._give_back(key, gate, costs)

            delay = await to_the_end(self._book(key, gate, costs, most), undo=give_back)
        else:
            delay = gate.rates.book(self._clock(), costs, most)
        now = self._clock()
        waits = gate.rates.delays(now, costs)
        slowest = NAMES[waits[1] > waits[0]]
        gate.obstacle = f"{slowest} of {getattr(limits, slowest)}"
        if delay is None:
            raise NoRoomError(max(waits), gate.obstacle)
        if delay > 0:
            gate.asleep_until = now + delay
            try:
                await self._sleep(delay)
            except BaseException:
                self._give_back(key, gate, costs)
                raise

    async def _book(self, key: str, gate: Gate, costs: Charge, most: float) -> float | None:
        """Book a slot for all processes; for this one where Redis does not answer."""
        arguments = [*costs[0], *costs[1], most]
        try:
            delay, *left = await self._run(BOOK, f"rates:{key}", *arguments)
        except SharedStateDown:
            return gate.rates.book(self._clock(), costs, most)
        gate.rates.adopt(left, self._clock())
        return float(delay) if delay else None

    def _give_back(self, key: str, gate: Gate, costs: Charge) -> None:
        unspent = -costs[0].seconds, -costs[1].seconds
        gate.rates.correct(self._clock(), *unspent)
        if self._redis_answers:
            background(self._quietly(CORRECT, f"rates:{key}", *unspent))

    async def _lease(
        self, key: str, capacity: int | None, deadline: float, hold_seconds: float
    ) -> str | None:
        """Take a place among all processes; returns its name, None where there are no such places now."""
        if capacity is None or not self._redis_answers:
            return None
        lease = uuid4().hex

        async def release(_: object) -> None:
            await self._quietly(_RELEASE, f"in-flight:{key}", lease)

        arguments = (lease, capacity, hold_seconds + _MARGIN_SECONDS)
        while await to_the_end(self._quietly(_TAKE, f"in-flight:{key}", *arguments), undo=release) == 0:
            left = deadline - self._clock()
            if left <= 0:
                raise TimeoutError
            await self._sleep(min(left, random.uniform(*_PAUSE_SECONDS)))  # noqa: S311 - no secret
        # Also where Redis did not answer: it may have given the place nevertheless.
        return lease

    async def _leave(self, key: str, gate: Gate, lease: str | None, excess: float) -> None:
        # The shared place first: whoever takes the one in this process then finds it free.
        try:
            if lease is not None:
                await self._quietly(_RELEASE, f"in-flight:{key}", lease)
            if excess:
                await self._quietly(CORRECT, f"rates:{key}", 0.0, excess)
        finally:
            gate.leave()

    @property
    def _redis_answers(self) -> bool:
        return self._shared is not None and not self._shared.down

    async def _run(self, script: str, key: str, *arguments: str | float) -> Any:
        if self._shared is None:
            raise SharedStateDown
        return await self._shared.run(script, [key], arguments)

    async def _quietly(self, script: str, key: str, *arguments: str | float) -> Any:
        """Run a script; None where Redis does not answer."""
        try:
            return await self._run(script, key, *arguments)
        except SharedStateDown:
            return None

    def _new(self, key: str) -> Gate:
        if len(self._gates) >= _MOST_KEYS:
            now = self._clock()
            self._gates = {other: gate for other, gate in self._gates.items() if not gate.idle(now)}
        gate = self._gates[key] = Gate()
        return gate


# KEYS[1]: a sorted set of leases by when they expire, in seconds of Redis' clock.
# ARGV: the lease, how many there may be, seconds until it expires. Answer: 1 if taken.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], string.format('%.6f', now + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), math.ceil(ARGV[3] * 1000)))
return 1
"""

_RELEASE = "return redis.call('ZREM', KEYS[1], ARGV[1])"
