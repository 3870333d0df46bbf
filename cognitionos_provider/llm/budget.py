"""Budgets: reserve what a call may cost before it, settle what it did cost after it.

So parallel steps of a run can't overspend by racing. The state is in Redis where there is one; without it, and while
it is down, each process reckons for itself, which is exact within the process. Either way it is built from the
ledger where it is not known. ``purse`` holds what is known of one budget, ``books`` says where it is kept,
``shared_budget`` holds Redis' side.

::

    budgets = Budgets()
    run = Budget("execution/{7}", Decimal("0.50"), "the run's budget")
    reservation = await budgets.reserve([run], Decimal("0.03"), call_id="c1", timeout=10, hold_seconds=60)
    try:
        cost = ...  # ask the model, and write to the ledger what it did cost
    finally:
        await reservation.settle(cost)
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal

from cognitionos_provider.exceptions import BudgetExceededError
from cognitionos_provider.llm.books import Books, Lack, pause
from cognitionos_provider.llm.purse import Budget, Claim, dollars, micros, micros_down
from cognitionos_provider.llm.shared import SharedState

__all__ = ["Budget", "Budgets", "Reservation"]

# A call that is given up at its deadline is settled a moment later.
_GRACE_SECONDS = 30.0


class Reservation:
    """What a call may spend. Settle it when the call has ended, however it did, and after the ledger knows."""

    def __init__(self, books: Books, claim: Claim) -> None:
        self._books = books
        self._claim: Claim | None = claim
        self._telling: asyncio.Task[None] | None = None

    async def settle(self, spent: Decimal) -> None:
        """Count what the call did cost, in USD, and give back the rest; 0 gives all back.

        It may be more than was reserved. Only the first call counts; one that is cancelled is carried out all the
        same. Raises ValueError for an amount that is negative or no number.
        """
        amount = micros(spent)
        claim, self._claim = self._claim, None
        if claim is not None:
            self._telling = self._books.settle(claim, amount)
        if self._telling is not None:
            await asyncio.shield(self._telling)


class Budgets:
    """The budgets that the calls of this process share, for one event loop. ``clock`` gives seconds."""

    def __init__(
        self, *, shared: SharedState | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._books = Books(shared, clock)
        self._numbers = itertools.count()

    async def reserve(
        self,
        budgets: Sequence[Budget],
        amount: Decimal,
        *,
        call_id: str,
        timeout: float,  # noqa: ASYNC109 - it bounds the wait for room, not the steps
        hold_seconds: float,
    ) -> Reservation:
        """Reserve ``amount`` (USD) in each of the budgets, or in none.

        Where running calls may yet leave enough, it waits for that, up to ``timeout`` seconds. Who came first is
        served first, but a call that fits may pass a larger one that does not: a large one holds up nobody.
        ``hold_seconds`` is how long the call may take at most; where it is not settled 30 s after that (its
        process was killed), it counts as spent.

        Raises BudgetExceededError, at once where no wait could help; ValueError for an amount that is negative or
        no number, and for a budget given twice; and what a budget's ``spent`` raises, since no call may go past a
        budget whose state is unknown. The time that the ledger takes is not bounded by ``timeout``.
        """
        keys = [budget.key for budget in budgets]
        if len(set(keys)) < len(keys):
            raise ValueError(f"A budget is given twice: {', '.join(keys)}")
        books = self._books
        number = next(self._numbers)
        claim = Claim(
            f"{call_id}/{number}",
            number,
            micros(amount),
            hold_seconds + _GRACE_SECONDS,
            budgets,
            [books.purse(key) for key in keys],
            [micros_down(budget.limit_usd) for budget in budgets],
        )
        if not budgets:
            return Reservation(books, claim)
        if not books.connected and all(each.local and not each.waiting for each in claim.purses):
            lack = books.decide(claim)
            if lack is None:
                return Reservation(books, claim)
            if lack.final:
                raise _exceeded(claim, lack)
        await self._wait(claim, timeout)
        return Reservation(books, claim)

    async def _wait(self, claim: Claim, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        lack: Lack | None = None
        claim.queue()
        try:
            while True:
                claim.turn.clear()
                # One that came before and seems to fit has been called: it goes first, and calls the next.
                if claim.may_go:
                    claim.trying = True
                    try:
                        lack = await self._books.attempt(claim)
                    finally:
                        claim.trying = False
                    if lack is None:
                        return
                    if lack.final:
                        raise _exceeded(claim, lack)
                    claim.pass_on()
                left = deadline - loop.time()
                if left <= 0 and not claim.turn.is_set():
                    raise _exceeded(claim, lack or Lack(claim.lacking_at() or 0, False), seconds)
                # What other processes settle is seen by asking.
                if self._books.connected and claim.leads:
                    left = min(left, pause())
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await claim.turn.wait()
        finally:
            claim.leave()


def _exceeded(claim: Claim, lack: Lack, waited: float = 0.0) -> BudgetExceededError:
    budget, purse = claim.budgets[lack.which], claim.purses[lack.which]
    limit = claim.limits[lack.which]
    reserved = purse.reserved + purse.others
    if not lack.final:
        state = "has no room now"
    elif claim.amount > limit:
        state = "is too small"
    else:
        state = "is used up"
    running = f", up to {dollars(reserved)} is reserved by running calls" if reserved else ""
    wait = f"waited {waited:.3g} s for running calls to leave more; " if waited > 0 else ""
    return BudgetExceededError(
        f"{budget.name[:1].upper()}{budget.name[1:]} of {dollars(limit)} {state}: {dollars(purse.spent)} is spent"
        f"{running}, and this call may cost up to {dollars(claim.amount)} ({wait}nothing was sent)"
    )
