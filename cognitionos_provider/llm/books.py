"""The purses of this process, and where each is kept: in Redis, or here alone while Redis is down.

Nothing waits for room here; that is ``budget``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from cognitionos_provider.llm.purse import Budget, Claim, Purse, micros, wake
from cognitionos_provider.llm.shared import SharedState, SharedStateDown, background, to_the_end
from cognitionos_provider.llm.shared_budget import Answer, SharedBudgets, turns

__all__ = ["Books", "Lack", "pause"]

_KEEP_SECONDS = 3600.0
_MOST_PURSES = 10_000
_MOST_SETTLE_TRIES = 3

_log = logging.getLogger(__name__)


def pause() -> float:
    """Seconds until Redis is asked again about what another process does; spread, so that many ask in turn."""
    return random.uniform(0.05, 0.2)  # noqa: S311 - keeps no secret


class Lack(NamedTuple):
    """Which budget of a claim has no room, and whether that is for good."""

    which: int
    final: bool


class Books:
    """All purses that this process has used lately. ``clock`` gives seconds.

    One that nothing depends on is dropped when it is unused for an hour, or the oldest beyond 10,000; it is read
    from Redis or the ledger again.
    """

    def __init__(self, shared: SharedState | None, clock: Callable[[], float]) -> None:
        self._redis = SharedBudgets(shared, clock)
        self._clock = clock
        self._purses: OrderedDict[str, Purse] = OrderedDict()
        # After each, what Redis holds may be old: it is built anew before it is used.
        self._outages = 0

    @property
    def connected(self) -> bool:
        """Whether Redis is to be asked."""
        return self._redis.connected

    def purse(self, key: str) -> Purse:
        """Find the purse of a budget, or open it."""
        now = self._clock()
        if (purse := self._purses.get(key)) is None:
            purse = self._purses[key] = Purse(key)
        purse.used = now
        self._purses.move_to_end(key)
        for _ in range(2):  # more than are opened, so that the number comes down
            oldest = next(iter(self._purses.values()))
            if len(self._purses) <= _MOST_PURSES and now - oldest.used <= _KEEP_SECONDS:
                break
            if oldest.idle and oldest is not purse:
                del self._purses[oldest.key]
            else:
                oldest.used = now
                self._purses.move_to_end(oldest.key)
        return purse

    def decide(self, claim: Claim) -> Lack | None:
        """Reserve in this process alone, where all purses are local."""
        if (which := claim.hopeless_at()) is not None:
            return Lack(which, True)
        if (which := claim.lacking_at()) is not None:
            return Lack(which, False)
        claim.take(self._clock() + claim.seconds, shared=claim.asked)
        return None

    async def attempt(self, claim: Claim) -> Lack | None:
        """Reserve in Redis, or in this process where Redis is down. Raises what the ledger raises."""
        in_redis = self.connected
        while True:
            for purse, budget in zip(claim.purses, claim.budgets, strict=True):
                if not self._ready(purse, in_redis):
                    in_redis = await self._loaded(purse, budget, in_redis)
                    break
            else:
                if not in_redis:
                    return self.decide(claim)
                # A step that is on its way to Redis is carried out, whoever is cancelled.
                answer, which = await to_the_end(self._ask(claim), undo=partial(self._undo, claim))
                if answer is Answer.DONE:
                    return None
                if answer in (Answer.WAIT, Answer.NEVER):
                    return Lack(which, answer is Answer.NEVER)

    def settle(self, claim: Claim, spent: int) -> asyncio.Task[None] | None:
        """Put what a call has spent in the place of what it held.

        Done at once where this process reckons alone; what Redis is to be told is the task, which never fails.
        """
        told = []
        for purse in claim.purses:
            if purse.held[claim.id].shared:
                if self.connected:
                    told.append(purse)
                    continue
                purse.distrust()
            purse.release(claim.id, spent)
        wake(claim.purses)
        return background(self._tell(claim, spent, told)) if told else None

    def _ready(self, purse: Purse, in_redis: bool) -> bool:
        if in_redis:
            return purse.epoch is not None and purse.era == self._outages
        return purse.local

    async def _ask(self, claim: Claim) -> tuple[Answer, int]:
        async with turns(claim.purses):
            if not all(self._ready(purse, True) for purse in claim.purses):
                return Answer.CHANGED, 0
            claim.asked = True
            try:
                answer, which = await self._redis.reserve(claim)
            except SharedStateDown:
                self._outages += 1
                return Answer.CHANGED, 0
            if answer is Answer.DONE:
                claim.take(self._clock() + claim.seconds, shared=True)
            elif answer is Answer.CHANGED:
                claim.purses[which].epoch = None
            elif answer is Answer.LOST:
                claim.purses[which].distrust()
            return answer, which

    async def _undo(self, claim: Claim, asked: tuple[Answer, int]) -> None:
        if asked[0] is Answer.DONE and (telling := self.settle(claim, 0)) is not None:
            await telling

    async def _tell(self, claim: Claim, spent: int, purses: Sequence[Purse]) -> None:
        budgets = dict(zip(claim.purses, claim.budgets, strict=True))
        untold = list(purses)
        try:
            for _ in range(_MOST_SETTLE_TRIES):
                async with turns(untold):
                    states = await self._redis.settle(claim.id, spent, untold)
                    for purse, state in zip(tuple(untold), states, strict=True):
                        if state.answer in (Answer.CHANGED, Answer.NOTED):
                            purse.epoch = None
                        if state.answer is Answer.UNKNOWN:
                            purse.distrust()
                        # Where the ledger will be read before the next use, it is in there already.
                        if state.answer is Answer.CHANGED and purse.era == self._outages:
                            continue
                        sent = state.answer in (Answer.DONE, Answer.NOTED)
                        purse.release(claim.id, spent, sent=sent)
                        if purse.epoch is not None:
                            purse.see(state.spent, state.reserved)
                        untold.remove(purse)
                for purse in untold:
                    await self._loaded(purse, budgets[purse], True)
                if not untold:
                    return
        except SharedStateDown:
            self._outages += 1
        except Exception:  # noqa: BLE001 - the ledger raises what it likes, and the call has ended
            # Its reservation expires in Redis and counts as spent in full, until the ledger is asked again.
            _log.warning("What a call has spent could not be told to Redis", exc_info=True)
        finally:
            for purse in untold:
                purse.release(claim.id, spent)
            wake(purses)

    async def _loaded(self, purse: Purse, budget: Budget, in_redis: bool) -> bool:
        """Make a purse ready, once for all who need it now; returns whether it is kept in Redis."""
        if purse.loading is None:
            purse.loading = background(self._load(purse, budget, in_redis))
        return await asyncio.shield(purse.loading)

    async def _load(self, purse: Purse, budget: Budget, in_redis: bool) -> bool:
        try:
            if in_redis:
                try:
                    await self._join(purse, budget)
                    return True
                except SharedStateDown:
                    self._outages += 1
            if not purse.local:
                settled = purse.settled
                ledger = await _ledger(budget, purse.spent)
                # What was settled while the ledger was read may be missing there.
                purse.begin_local(ledger + purse.settled - settled)
            return False
        finally:
            purse.loading = None
            wake([purse])

    async def _join(self, purse: Purse, budget: Budget) -> None:
        """Agree with Redis about a purse, and build its state there if need be."""
        while True:
            outages = self._outages
            async with purse.turn:
                changes = purse.changes
                state = await self._redis.open(purse, force=purse.era != outages)
                if state.answer is Answer.DONE and purse.changes == changes:
                    return purse.join(state.epoch, state.spent, state.reserved, outages)
                unsent = purse.unsent
            if state.answer is Answer.BUILD:
                ledger = await _ledger(budget, max(state.spent, purse.spent))
                async with purse.turn:
                    changes, missing = purse.changes, purse.unsent - unsent
                    built = await self._redis.build(purse, ledger + missing, state.spent)
                    if built.answer is Answer.DONE and purse.changes == changes:
                        return purse.join(built.epoch, built.spent, built.reserved, outages)
                # Somebody else built it, or a call of this process ended on the way and Redis was not told.
                purse.distrust()
            else:
                await asyncio.sleep(pause())


async def _ledger(budget: Budget, known: int) -> int:
    return known if budget.spent is None else micros(await budget.spent())
