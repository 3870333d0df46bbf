"""What this process knows of one budget: what is spent, what running calls may yet spend, and who waits.

Amounts are whole micro-dollars (1e-6 USD), since the numbers of Redis' Lua are exact up to 2**53 only. What is
reserved or spent is rounded up and a limit down: that errs on the safe side, by under a micro-dollar a call. The
exact sums are in the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from heapq import merge
from operator import attrgetter

__all__ = ["Budget", "Claim", "Hold", "Purse", "dollars", "micros", "micros_down", "wake"]

_PER_DOLLAR = 1_000_000
# 9,007,199,254 USD: more than any budget, and still exact in Lua.
_MOST = 2**53


def micros(usd: Decimal) -> int:
    """Micro-dollars of an amount, rounded up. Raises ValueError for one that is negative or no finite number."""
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"An amount of money is a number from 0 on, not {usd}")
    numerator, denominator = usd.as_integer_ratio()
    return min(-(-numerator * _PER_DOLLAR // denominator), _MOST)


def micros_down(usd: Decimal) -> int:
    """Micro-dollars of a limit, rounded down."""
    numerator, denominator = usd.as_integer_ratio()
    return min(numerator * _PER_DOLLAR // denominator, _MOST)


def dollars(amount: int) -> str:
    """Write micro-dollars for people: ``$0.50``, ``$0.000012``."""
    whole, part = divmod(amount, _PER_DOLLAR)
    digits = f"{part:06}".rstrip("0")
    return f"${whole}.{digits:0<2}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What the calls that share ``key`` may spend in all, in USD.

    ``name`` is how an error names it ("the run's budget"). Keys of budgets that are reserved from together need a
    hash tag in common on a Redis Cluster: ``execution/{7}`` and ``agent/{7}/writer``, with the braces.

    ``spent`` reads from the ledger what was spent so far: answers paid, and the bound of calls that may have been
    billed, but nothing for calls that still hold a reservation. It is asked where the state is not known: at the
    first use, after a restart, after an outage of Redis. So a call must be in the ledger before it is settled.
    With None, a budget that nobody knows begins at 0.
    """

    key: str
    limit_usd: Decimal
    name: str
    spent: Callable[[], Awaitable[Decimal]] | None = None


@dataclass(slots=True)
class Hold:
    """What a running call of this process may yet spend. ``until`` is a time of the clock.

    ``shared`` says that Redis may know it, too.
    """

    amount: int
    until: float
    shared: bool


@dataclass(slots=True, eq=False)
class Claim:
    """A call that wants ``amount`` from each of its purses, or nothing. ``number`` tells who came first.

    ``turn`` is set when it is worth trying (again), and ``trying`` says that it does so just now. ``asked`` says
    that Redis was asked, so it may have granted the claim even where its answer got lost.
    """

    id: str
    number: int
    amount: int
    seconds: float
    budgets: Sequence[Budget]
    purses: Sequence[Purse]
    limits: Sequence[int]
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    trying: bool = False
    asked: bool = False

    def hopeless_at(self) -> int | None:
        """The first purse where it would not fit even if running calls cost nothing, by what is known."""
        for index, (purse, limit) in enumerate(zip(self.purses, self.limits, strict=True)):
            if purse.spent + self.amount > limit:
                return index
        return None

    def lacking_at(self) -> int | None:
        """The first purse that has no room for it now, by what is known."""
        for index, (purse, limit) in enumerate(zip(self.purses, self.limits, strict=True)):
            if purse.spent + purse.reserved + purse.others + self.amount > limit:
                return index
        return None

    @property
    def may_go(self) -> bool:
        """Whether no other claim has been called in any of its purses."""
        return all(purse.called in (None, self) for purse in self.purses)

    @property
    def leads(self) -> bool:
        """Whether it is the first of a queue: the one that asks Redis again and again, for all of them."""
        return any(next(iter(purse.waiting)) is self for purse in self.purses)

    def queue(self) -> None:
        """Wait in each of its purses."""
        for purse, limit in zip(self.purses, self.limits, strict=True):
            purse.waiting[self] = limit - self.amount

    def pass_on(self) -> None:
        """Let the next one have its turn: this one has tried."""
        for purse in self.purses:
            if purse.called is self:
                purse.called = None
        wake(self.purses)

    def leave(self) -> None:
        """Wait no longer."""
        for purse in self.purses:
            led = next(iter(purse.waiting)) is self
            del purse.waiting[self]
            if led and purse.waiting:
                next(iter(purse.waiting)).turn.set()
        self.pass_on()

    def take(self, until: float, *, shared: bool) -> None:
        """Reserve the amount in each purse."""
        for purse in self.purses:
            purse.held[self.id] = Hold(self.amount, until, shared)
            purse.reserved += self.amount
            purse.changes += 1


@dataclass(slots=True, eq=False)
class Purse:
    """One budget as this process sees it.

    ``spent`` and ``others`` (what other processes have reserved) are Redis' last word, or, where the purse is
    ``local``, this process' own reckoning; ``reserved`` is the sum of ``held``. ``epoch`` names the state in
    Redis that this process has last agreed with, and ``era`` the number of outages it had seen by then.
    ``settled`` is all that this process has ever settled, ``unsent`` the part that Redis was not told; ``changes``
    counts what happened to ``held``. ``waiting`` says how much may be used for a claim to fit.

    Of the claims that wait and seem to fit, the one that came first is ``called``, in all its purses at once; it
    tries, and then the next one is called. One that fits passes a larger one that does not, so a large claim holds
    up nobody, and waits at most for its own timeout.
    """

    key: str
    spent: int = 0
    reserved: int = 0
    others: int = 0
    settled: int = 0
    unsent: int = 0
    changes: int = 0
    local: bool = False
    epoch: int | None = None
    era: int = 0
    used: float = 0.0
    held: dict[str, Hold] = field(default_factory=dict)
    waiting: dict[Claim, int] = field(default_factory=dict)
    called: Claim | None = None
    loading: asyncio.Task[bool] | None = None
    # One step at a time in Redis: a state is not rebuilt while a step of this process is on its way there.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.held or self.waiting or self.loading or self.turn.locked())

    @property
    def may_serve(self) -> bool:
        """Whether any claim that waits seems to fit here, and none has been called."""
        if not self.waiting or self.called is not None:
            return False
        return self.spent + self.reserved + self.others <= max(self.waiting.values())

    def begin_local(self, spent: int) -> None:
        """Reckon alone from here on."""
        self.spent, self.others, self.local = spent, 0, True
        self.distrust()

    def distrust(self) -> None:
        """Have the state in Redis built from the ledger before it is used again."""
        self.era = -1

    def join(self, epoch: int, spent: int, reserved: int, era: int) -> None:
        """Go by Redis from here on, which has just been told all that is held."""
        self.epoch, self.local, self.era = epoch, False, era
        for hold in self.held.values():
            hold.shared = True
        self.see(spent, reserved)

    def see(self, spent: int, reserved: int) -> None:
        """Note what Redis says, unless this process reckons alone."""
        if not self.local:
            self.spent, self.others = spent, max(0, reserved - self.reserved)

    def release(self, claim_id: str, spent: int, *, sent: bool = False) -> None:
        """Put what a call has spent in the place of what it held."""
        self.reserved -= self.held.pop(claim_id).amount
        self.changes += 1
        self.spent += spent
        self.settled += spent
        if not sent:
            self.unsent += spent


def wake(purses: Sequence[Purse]) -> None:
    """Call the first of the claims that wait there and seem to fit, and each that has become hopeless."""
    for purse in purses:
        if purse.waiting and purse.spent > min(purse.waiting.values()):
            for claim, most in purse.waiting.items():
                if purse.spent > most:
                    claim.turn.set()
    # Most of the time it is seen at a glance that nobody fits: a queue may be long.
    queues = [purse.waiting for purse in purses if purse.may_serve]
    for claim in dict.fromkeys(merge(*queues, key=attrgetter("number"))):
        if not claim.trying and claim.may_go and claim.lacking_at() is None:
            for purse in claim.purses:
                purse.called = claim
            claim.turn.set()
            if all(purse.called for purse in purses):
                break
