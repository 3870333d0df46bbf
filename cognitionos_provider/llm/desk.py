"""What a call has at hand: what it shares with all calls of its router, and who wants to know about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cognitionos_provider.llm.breaker import Breakers
from cognitionos_provider.llm.budget import Budget, Budgets
from cognitionos_provider.llm.cache import ResponseCache
from cognitionos_provider.llm.chain import Candidate
from cognitionos_provider.llm.client import Client
from cognitionos_provider.llm.connection import Price
from cognitionos_provider.llm.journal import Journal
from cognitionos_provider.llm.limits import Gates
from cognitionos_provider.llm.request import Attempt

__all__ = ["Desk", "OnAsking", "OnAttempt", "Tellers"]

OnAttempt = Callable[[Attempt], Awaitable[None] | None]
OnAsking = Callable[[str, str], None]


@dataclass
class Desk:
    """What all calls of a router share. Times are seconds; ``chance`` gives random numbers from 0 to 1."""

    clients: Mapping[str, Client]
    breakers: Breakers
    gates: Gates
    budgets: Budgets
    cache: ResponseCache
    prices: Mapping[str, Price]
    sending: set[str]
    """The ids of the calls that are under way, whose money is reserved here."""
    attempt_seconds: float
    tries: int
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    chance: Callable[[], float]

    def key_of(self, candidate: Candidate) -> str:
        """Return what breakers and limits know a candidate by."""
        return f"{self.clients[candidate.connection].account}/{candidate.model}"

    def milliseconds_since(self, begun: float) -> int:
        """Return the time since ``begun``, in whole milliseconds."""
        return round((self.clock() - begun) * 1000)

    def price_of(self, candidate: Candidate) -> Price | None:
        """Return the price that somebody has set for a model."""
        own = self.clients[candidate.connection].connection.prices
        return (
            own.get(candidate.model)
            or self.prices.get(f"{candidate.provider}:{candidate.model}")
            or self.prices.get(candidate.model)
        )


@dataclass
class Tellers:
    """Who is told about one call, and by which money it is bounded. ``group`` is whose turn it is in a queue."""

    journal: Journal | None = None
    item: int | None = None
    budgets: Sequence[Budget] = ()
    group: str = ""
    on_attempt: OnAttempt | None = None
    on_asking: OnAsking | None = None
