"""The router: several connections behind one ``generate``, with one pooled HTTP client each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from cognitionos_provider.exceptions import ConfigurationError, DeadlineExceededError, UnknownModelError
from cognitionos_provider.llm.breaker import Breakers, BreakerSettings
from cognitionos_provider.llm.budget import Budget, Budgets
from cognitionos_provider.llm.cache import ResponseCache
from cognitionos_provider.llm.call import Call
from cognitionos_provider.llm.chain import DEFAULT_MODELS, Candidate, chain_of, split_name
from cognitionos_provider.llm.client import Client
from cognitionos_provider.llm.connection import Connection, Price
from cognitionos_provider.llm.desk import Desk, OnAsking, OnAttempt, Tellers
from cognitionos_provider.llm.health import ProviderHealth, check, unreachable
from cognitionos_provider.llm.journal import Journal
from cognitionos_provider.llm.limits import Gates
from cognitionos_provider.llm.provider import needs_key
from cognitionos_provider.llm.request import LLMRequest, LLMResponse
from cognitionos_provider.llm.shared import SharedState

__all__ = ["LLMRouter", "create_llm_router"]

_HEALTH_SECONDS = 5.0


class LLMRouter:
    """Puts requests to models, one after the other, until one answers.

    A router belongs to the event loop that first uses it, and is meant to live long: its clients keep
    their connections, and its breakers what they learned. Make it with :func:`create_llm_router`, or of
    connections; close it with :meth:`aclose` or use it as an async context manager.

    ``default_models`` is the chain of requests that name no model, where no connection has a default model.
    ``timeout_seconds`` bounds a single call to a provider, so that one that hangs leaves time for the next; the
    whole call is bounded by the request. ``tries_per_model`` is how often a candidate is asked within one pass if
    its failure may get better: a request leads to at most passes (``retry.max_attempts``) x candidates x tries
    calls. ``max_connections`` is per connection. ``prices`` are by ``provider:model`` or model name, and win over
    the price data. With ``shared``, breakers, limits, budgets and the cache are shared through Redis.
    ``clock`` (seconds, monotonic), ``sleep`` and ``chance`` are parameters so that tests need not wait.

    Raises :class:`ConfigurationError` for a base URL that is none, two connections of one name, or a number out
    of range. Nothing is imported or opened yet.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        default_models: Sequence[str] = DEFAULT_MODELS,
        timeout_seconds: float = 60.0,
        tries_per_model: int = 2,
        max_connections: int = 1000,
        prices: Mapping[str, Price] | None = None,
        shared: SharedState | None = None,
        breaker: BreakerSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        _require(connections, timeout_seconds, tries_per_model, max_connections)
        for model in default_models:
            split_name(model)
        self.connections = tuple(connections)
        self._default_models = tuple(default_models)
        self._max_connections = max_connections
        self._shared = shared
        self._clients = {each.name: Client(each, max_connections) for each in connections}
        self._desk = Desk(
            clients=self._clients,
            breakers=Breakers(breaker or BreakerSettings(), shared=shared, clock=clock),
            gates=Gates(shared=shared, clock=clock, default_in_flight=max_connections),
            budgets=Budgets(shared=shared, clock=clock),
            # At most 128 MiB in this process.
            cache=ResponseCache(shared=shared, clock=clock, max_entries=500, max_bytes=1 << 18),
            prices=prices or {},
            sending=set(),
            attempt_seconds=timeout_seconds,
            tries=tries_per_model,
            clock=clock,
            sleep=sleep,
            chance=chance,
        )
        self._clock = clock
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._ready: set[str] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"LLMRouter(configured={self.configured})"

    @property
    def configured(self) -> tuple[str, ...]:
        """The names of the connections that have a key."""
        return tuple(each.name for each in self.connections if each.api_key is not None)

    @property
    def in_flight(self) -> frozenset[str]:
        """The ids of the calls that are under way, from the reservation of their money to its settlement."""
        return frozenset(self._desk.sending)

    async def warm_up(self) -> None:
        """Load the SDKs and build the clients in a thread, once; ``generate`` does it by itself if need be.

        Takes 2 to 4 s the first time in a process and never holds the event loop. Raises
        :class:`ConfigurationError` if a client can't be built.
        """
        await self._connect([each.name for each in self.connections])

    async def _connect(self, names: Sequence[str]) -> None:
        if self._closed:
            raise ConfigurationError("This LLM router is closed; create a new one with create_llm_router()")
        waiting = [name for name in names if name not in self._ready]
        if not waiting:
            return
        for name in waiting:
            if name not in self._connecting or self._connecting[name].done():
                self._connecting[name] = asyncio.create_task(asyncio.to_thread(self._connect_one, name))
        # Shielded: a caller that is cancelled or out of time must not make the others start over.
        await asyncio.shield(asyncio.gather(*(self._connecting[name] for name in waiting)))

    def _connect_one(self, name: str) -> None:
        if self._shared is not None:
            self._shared.connect()
        self._clients[name].connect()
        self._ready.add(name)

    async def generate(
        self,
        request: LLMRequest,
        *,
        journal: Journal | None = None,
        item: int | None = None,
        budgets: Sequence[Budget] = (),
        group: str = "",
        on_attempt: OnAttempt | None = None,
        on_asking: OnAsking | None = None,
    ) -> LLMResponse:
        """Ask the models of the request until one answers.

        ``journal`` keeps each call and each answer, and has the answers that need not be paid again; ``item`` is
        the index of a fan-out's item there. ``budgets`` bound what the call may cost. ``group`` is whose turn it
        is where calls queue up. ``on_attempt`` is called (and awaited) with each :class:`Attempt` as soon as it
        has ended; what it raises is logged and changes nothing. ``on_asking`` is called with provider and model
        before each call that is sent.

        Raises :class:`UnknownModelError` before anything is sent, :class:`RequestRejectedError`,
        :class:`BudgetExceededError`, :class:`DeadlineExceededError`, or :class:`AllModelsFailedError`, each with
        its ``attempts``. A cancelled call closes its HTTP connection and raises
        :class:`asyncio.CancelledError`.
        """
        started = self._clock()
        chain = chain_of(request, self.connections, self._default_models)
        self._add_clients(chain)
        names = list(dict.fromkeys(candidate.connection for candidate in chain))
        if not self._ready.issuperset(names):
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    await self._connect(names)
            except UnknownModelError:
                # Names come from definitions: those that nobody serves must not pile up.
                self._forget(names)
                raise
            except TimeoutError:
                raise DeadlineExceededError(
                    f"No model answered within {request.timeout_seconds:.6g} s: the providers' SDKs were "
                    "still being loaded; allow more time or call warm_up() beforehand"
                ) from None
        tellers = Tellers(journal, item, budgets, group, on_attempt, on_asking)
        return await Call(request, chain, self._desk, tellers, started).run()

    def _add_clients(self, chain: Sequence[Candidate]) -> None:
        """Give a provider that nobody configured a connection of its own: its key may be in the environment."""
        for candidate in chain:
            if candidate.connection not in self._clients:
                made = Connection(name=candidate.connection, provider=candidate.provider)
                self._clients[candidate.connection] = Client(made, self._max_connections)

    def _forget(self, names: Sequence[str]) -> None:
        configured = {each.name for each in self.connections}
        for name in names:
            if name not in configured and name not in self._ready:
                self._clients.pop(name, None)
                self._connecting.pop(name, None)

    async def health_check_all(self) -> dict[str, ProviderHealth]:
        """Make a real, free call (list models) over each connection that has a key, all at once, within 5 s."""
        begun = time.monotonic()
        asked = {
            each.name: each
            for each in self.connections
            if each.api_key is not None or not needs_key(each.provider)
        }
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await asyncio.gather(*(self._connect([name]) for name in asked), return_exceptions=True)
        except TimeoutError:
            error = "not asked: the provider's SDK is still being loaded"
            return {name: unreachable(each, error) for name, each in asked.items()}
        left = _HEALTH_SECONDS - (time.monotonic() - begun)
        found = await asyncio.gather(*(check(self._clients[name], left) for name in asked))
        return {
            health.connection: health.model_copy(update={"breakers": self._open_breakers(health.connection)})
            for health in found
        }

    def _open_breakers(self, connection: str) -> dict[str, str]:
        prefix = f"{self._clients[connection].account}/"
        states = self._desk.breakers.states()
        return {key.removeprefix(prefix): state for key, state in states.items() if key.startswith(prefix)}

    async def aclose(self) -> None:
        """Close every connection; the router can't be used any more."""
        self._closed = True
        if self._connecting:
            await asyncio.wait(self._connecting.values())
        self._ready.clear()
        for client in self._clients.values():
            await client.aclose()
        if self._shared is not None:
            await self._shared.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _require(
    connections: Sequence[Connection], timeout_seconds: float, tries_per_model: int, max_connections: int
) -> None:
    if timeout_seconds <= 0:
        raise ConfigurationError(f"timeout_seconds is {timeout_seconds}; it must be greater than 0")
    for name, number in {"tries_per_model": tries_per_model, "max_connections": max_connections}.items():
        if number < 1:
            raise ConfigurationError(f"{name} is {number}; it must be at least 1")
    for each in connections:
        if each.base_url is not None and not each.base_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"The base URL of {each.name} must start with http:// or https://")
        if sum(each.name == other.name for other in connections) > 1:
            raise ConfigurationError(
                f"Two connections have the name {each.name!r}; each needs one of its own"
            )


def create_llm_router(
    openai_api_key: str | None = None,
    anthropic_api_key: str | None = None,
    *,
    openai_base_url: str | None = None,
    anthropic_base_url: str | None = None,
    local_base_url: str | None = None,
    default_models: Sequence[str] | None = None,
    timeout_seconds: float = 60.0,
    tries_per_model: int = 2,
    max_connections: int = 1000,
    prices: Mapping[str, Price] | None = None,
    redis_url: str | None = None,
    breaker: BreakerSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> LLMRouter:
    """Make a router for OpenAI and Anthropic, for servers that speak their protocols, and for any provider else.

    A provider without a key is skipped when its turn comes (a local server that checks no key takes any
    text). Models of other providers (``groq:...``, ``local:...``) find their keys in the environment. With
    ``redis_url``, what calls learn and spend is shared. The other parameters are those of :class:`LLMRouter`.

    Raises :class:`ConfigurationError` for a base URL that is none or a number out of range, and
    :class:`UnknownModelError` for a default model without a known provider. Nothing is imported or opened
    yet.
    """
    given = {
        "openai": (openai_api_key, openai_base_url),
        "anthropic": (anthropic_api_key, anthropic_base_url),
        "local": (None, local_base_url),
    }
    connections = []
    for name, (api_key, base_url) in given.items():
        key = (api_key or "").strip()
        if name != "local" or base_url:
            url = base_url.rstrip("/") if base_url else None
            connections.append(
                Connection(name=name, provider=name, api_key=SecretStr(key) if key else None, base_url=url)
            )
    return LLMRouter(
        connections,
        default_models=tuple(default_models or DEFAULT_MODELS),
        timeout_seconds=timeout_seconds,
        tries_per_model=tries_per_model,
        max_connections=max_connections,
        prices=prices,
        shared=SharedState(redis_url, clock=clock) if redis_url else None,
        breaker=breaker,
        clock=clock,
        sleep=sleep,
        chance=chance,
    )
