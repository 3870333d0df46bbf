"""The router: several providers behind one ``generate``, with one pooled HTTP client each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from cognitionos_provider.exceptions import ConfigurationError, DeadlineExceededError
from cognitionos_provider.llm.call import Call, OnAsking, OnAttempt
from cognitionos_provider.llm.chain import DEFAULT_MODELS, candidate, chain_of
from cognitionos_provider.llm.health import ProviderHealth, check
from cognitionos_provider.llm.provider import KINDS, Provider
from cognitionos_provider.llm.request import LLMRequest, LLMResponse

__all__ = ["LLMRouter", "create_llm_router"]

_HEALTH_SECONDS = 5.0


class LLMRouter:
    """Puts requests to models, one after the other, until one answers.

    A router belongs to the event loop that first uses it, and is meant to live long: its clients keep
    their connections. Make it with :func:`create_llm_router`; close it with :meth:`aclose` or use it as
    an async context manager. ``clock`` (seconds, monotonic) and ``sleep`` are parameters so that tests
    need not wait.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        default_models: Sequence[str] = DEFAULT_MODELS,
        timeout_seconds: float = 60.0,
        tries_per_model: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._providers: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self._default_models = tuple(default_models)
        self._timeout_seconds = timeout_seconds
        self._tries_per_model = tries_per_model
        self._clock = clock
        self._sleep = sleep
        self._connecting: asyncio.Task[None] | None = None
        self._ready = False
        self._closed = False

    def __repr__(self) -> str:
        return f"LLMRouter(configured={self.configured})"

    @property
    def configured(self) -> tuple[str, ...]:
        """The providers that have a key."""
        return tuple(name for name, provider in self._providers.items() if provider.api_key is not None)

    async def warm_up(self) -> None:
        """Load the SDKs and build the clients in a thread, once; ``generate`` does it by itself if need be.

        Takes 2 to 4 s the first time in a process and never holds the event loop. Raises
        :class:`ConfigurationError` if a client can't be built.
        """
        if self._closed:
            raise ConfigurationError("This LLM router is closed; create a new one with create_llm_router()")
        if self._ready:
            return
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(asyncio.to_thread(self._connect))
        # Shielded: a caller that is cancelled or out of time must not make the others start over.
        await asyncio.shield(self._connecting)

    def _connect(self) -> None:
        for provider in self._providers.values():
            provider.connect()
        self._ready = True

    async def generate(
        self,
        request: LLMRequest,
        *,
        on_attempt: OnAttempt | None = None,
        on_asking: OnAsking | None = None,
    ) -> LLMResponse:
        """Ask the models of the request until one answers.

        ``on_attempt`` is called (and awaited) with each :class:`Attempt` as soon as it has ended, also
        with one that was cancelled; what it raises is logged and changes nothing. ``on_asking`` is called
        with provider and model before each call that is sent.

        Raises :class:`UnknownModelError` before anything is sent, :class:`RequestRejectedError` on 400
        and 422, :class:`DeadlineExceededError`, or :class:`AllModelsFailedError`, each with its
        ``attempts``. A cancelled call closes its HTTP connection and raises
        :class:`asyncio.CancelledError`.
        """
        started = self._clock()
        chain = chain_of(request, self._default_models, self.configured)
        if not self._ready:
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    await self.warm_up()
            except TimeoutError:
                raise DeadlineExceededError(
                    f"No model answered within {request.timeout_seconds:.6g} s: the providers' SDKs were "
                    "still being loaded; allow more time or call warm_up() beforehand"
                ) from None
        return await Call(
            request=request,
            chain=chain,
            providers=self._providers,
            started=started,
            clock=self._clock,
            sleep=self._sleep,
            attempt_seconds=self._timeout_seconds,
            tries=self._tries_per_model,
            on_attempt=on_attempt,
            on_asking=on_asking,
        ).run()

    async def health_check_all(self) -> dict[str, ProviderHealth]:
        """Make a real, free call (list models) to each provider that has a key, all at once, within 5 s."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self.warm_up()
        except TimeoutError:
            error = "not asked: the provider's SDK is still being loaded"
            return {
                name: ProviderHealth(provider=name, reachable=False, error=error) for name in self.configured
            }
        left = _HEALTH_SECONDS - (time.monotonic() - begun)
        checks = (check(self._providers[name], left) for name in self.configured)
        return {health.provider: health for health in await asyncio.gather(*checks)}

    async def aclose(self) -> None:
        """Close every connection; the router can't be used any more."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        self._ready = False
        for provider in self._providers.values():
            await provider.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def create_llm_router(
    openai_api_key: str | None = None,
    anthropic_api_key: str | None = None,
    *,
    openai_base_url: str | None = None,
    anthropic_base_url: str | None = None,
    default_models: Sequence[str] | None = None,
    timeout_seconds: float = 60.0,
    tries_per_model: int = 1,
    max_connections: int = 1000,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> LLMRouter:
    """Make a router for OpenAI and Anthropic, or for servers that speak their protocols.

    A provider without a key is skipped when its turn comes (a local server that checks no key takes any
    text). ``default_models`` is the chain of requests that name no model. ``timeout_seconds`` bounds a
    single attempt, so that a provider that hangs leaves time for the next one; the whole call is bounded
    by the request. ``tries_per_model`` is how often a candidate is asked within one pass if its failure
    may get better. ``max_connections`` is per provider.

    Raises :class:`ConfigurationError` for a base URL that is none or a number out of range, and
    :class:`UnknownModelError` for a default model without a known provider. Nothing is imported or opened
    yet.
    """
    given = {
        "openai": (openai_api_key, openai_base_url),
        "anthropic": (anthropic_api_key, anthropic_base_url),
    }
    if timeout_seconds <= 0:
        raise ConfigurationError(f"timeout_seconds is {timeout_seconds}; it must be greater than 0")
    for name, number in {"tries_per_model": tries_per_model, "max_connections": max_connections}.items():
        if number < 1:
            raise ConfigurationError(f"{name} is {number}; it must be at least 1")
    models = tuple(default_models or DEFAULT_MODELS)
    for model in models:
        candidate(model)
    providers = []
    for name, (api_key, base_url) in given.items():
        url = (base_url or KINDS[name].base_url).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"The base URL of {name} must start with http:// or https://")
        providers.append(Provider(name, (api_key or "").strip() or None, url, max_connections))
    return LLMRouter(
        providers,
        default_models=models,
        timeout_seconds=timeout_seconds,
        tries_per_model=tries_per_model,
        clock=clock,
        sleep=sleep,
    )
