"""The providers a router can call: a table of two, and the open client of each.

Everything here that is slow (importing the SDKs and pydantic-ai, building an SSL context, building the
pydantic schemas of a provider's answer at its first call) happens in :meth:`Provider.connect`, which is
to be run in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cognitionos_provider.exceptions import ConfigurationError
from cognitionos_provider.llm.pricing import price
from cognitionos_provider.llm.request import LLMRequest, Usage

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings

    SDKClient = AsyncOpenAI | AsyncAnthropic

__all__ = ["KINDS", "Provider", "Wire"]

# A host that does not answer at all must not use up the time of the candidates behind it.
_CONNECT_SECONDS = 10.0
# The pool looks at the socket of each idle connection whenever a call begins or ends: with 1,000 of them,
# 1,000 calls at once took 13 s of the loop, with 100 (the SDKs' own default, too) 5 s (measured).
_MOST_IDLE_CONNECTIONS = 100
# Model objects hold no connection; names come from workflow definitions, so there may be any number of them.
_MOST_MODELS = 256
# Above it pydantic-ai would stream the answer, and a model's own maximum may be 64,000 tokens and more.
_DEFAULT_ANTHROPIC_TOKENS = 16_384


@dataclass(slots=True)
class Wire:
    """Whether a request went out: what tells a refused connection from an answer that got lost."""

    sent: bool = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow one HTTP request (httpcore's ``trace`` extension)."""
        if event.endswith("send_request_body.started") and info["request"].method != b"CONNECT":
            self.sent = True


_wire: ContextVar[Wire | None] = ContextVar("cognitionos_llm_wire", default=None)


async def _watch(request: httpx2.Request) -> None:
    if (wire := _wire.get()) is not None:
        request.extensions["trace"] = wire.trace


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs between providers. The first three run in the thread that connects."""

    base_url: str
    open_client: Callable[[str, str, dict[str, Any]], SDKClient]
    model: Callable[[SDKClient, str], Model]
    sample_answer: dict[str, Any]
    """An answer as it comes over the wire, for the rehearsal."""


def _open_openai(api_key: str, base_url: str, http: dict[str, Any]) -> AsyncOpenAI:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    return AsyncOpenAI(
        api_key=api_key, base_url=base_url, max_retries=0, http_client=DefaultAsyncHttpxClient(**http)
    )


def _open_anthropic(api_key: str, base_url: str, http: dict[str, Any]) -> AsyncAnthropic:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    # The SDK adds the /v1 that OpenAI's base URLs carry themselves.
    base_url = base_url.removesuffix("/v1")
    return AsyncAnthropic(
        api_key=api_key, base_url=base_url, max_retries=0, http_client=DefaultAsyncHttpxClient(**http)
    )


def _openai_model(client: Any, name: str) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))


def _anthropic_model(client: Any, name: str) -> Model:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "openai": _Kind(
            base_url="https://api.openai.com/v1",
            open_client=_open_openai,
            model=_openai_model,
            sample_answer={
                "id": "sample",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            },
        ),
        "anthropic": _Kind(
            base_url="https://api.anthropic.com",
            open_client=_open_anthropic,
            model=_anthropic_model,
            sample_answer={
                "id": "sample",
                "type": "message",
                "role": "assistant",
                "model": "claude-3-haiku-20240307",
                "content": [{"type": "text", "text": "."}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            },
        ),
    }
)
"""The known providers. Their base URLs are explicit: the SDKs would take one from the environment."""


@dataclass(eq=False)
class Provider:
    """One provider as a router uses it: address, key (None: it can't be called) and pooled client."""

    name: str
    api_key: str | None = field(repr=False)
    base_url: str = field(repr=False)
    max_connections: int
    _client: SDKClient | None = field(default=None, init=False, repr=False)
    _models: dict[str, Model] = field(default_factory=dict, init=False, repr=False)

    def connect(self) -> None:
        """Load the SDK and open the client; takes seconds the first time in a process, so run it in a thread.

        Raises :class:`ConfigurationError` if the client can't be built, for a broken proxy or certificate
        setting for example.
        """
        if self.api_key is None or self._client is not None:
            return
        import httpx2

        kind = KINDS[self.name]
        limits = httpx2.Limits(
            max_connections=self.max_connections,
            max_keepalive_connections=min(self.max_connections, _MOST_IDLE_CONNECTIONS),
            keepalive_expiry=30,
        )
        http = {"limits": limits, "event_hooks": {"request": [_watch]}, "follow_redirects": False}
        try:
            client = kind.open_client(self.api_key, self.base_url, http)
        except Exception as error:
            raise ConfigurationError(
                f"The HTTP client of {self.name} can't be built ({type(error).__name__}): "
                "check its base URL and the proxy and certificate settings of the environment"
            ) from error
        _rehearse(self.name)
        self._client = client

    async def ask(self, model: str, request: LLMRequest, *, seconds: float, wire: Wire) -> ModelResponse:
        """Send the request once, without any retry, and return pydantic-ai's answer or raise its error."""
        from pydantic_ai.direct import model_request

        token = _wire.set(wire)
        try:
            subject = self._model(model)
            messages = _messages(request)
            if any(message.role == "system" for message in request.messages[1:]):
                # Not every model takes system text after the start; pydantic-ai knows the way out.
                messages = subject.prepare_messages(messages)
            return await model_request(
                subject, messages, model_settings=_settings(subject, request, seconds), instrument=False
            )
        finally:
            _wire.reset(token)

    async def list_models(self, seconds: float) -> None:
        """Make a real call that costs nothing; raises the SDK's own errors."""
        await self._open_client().models.list(timeout=seconds)

    async def aclose(self) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        self._models.clear()
        if client is not None:
            await client.close()

    def _open_client(self) -> SDKClient:
        if self._client is None:
            raise RuntimeError(f"the connection to {self.name} was closed during the call")
        return self._client

    def _model(self, name: str) -> Model:
        client = self._open_client()
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _MOST_MODELS:
                self._models.clear()
            model = self._models[name] = KINDS[self.name].model(client, name)
        return model


def _messages(request: LLMRequest) -> list[ModelMessage]:
    from pydantic_ai.messages import (
        ModelRequest,
        ModelRequestPart,
        ModelResponse,
        SystemPromptPart,
        TextPart,
        UserPromptPart,
    )

    messages: list[ModelMessage] = []
    parts: list[ModelRequestPart] = []
    for message in request.messages:
        if message.role == "assistant":
            if parts:
                messages.append(ModelRequest(parts=parts))
                parts = []
            messages.append(ModelResponse(parts=[TextPart(message.content)]))
        else:
            part = SystemPromptPart if message.role == "system" else UserPromptPart
            parts.append(part(message.content))
    if parts:
        messages.append(ModelRequest(parts=parts))
    return messages


def _settings(model: Model, request: LLMRequest, seconds: float) -> ModelSettings:
    import httpx2
    from pydantic_ai.settings import ModelSettings

    timeout = httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
    # Typed for httpx, whose values pydantic-ai converts to those of httpx2; these it passes on.
    settings = ModelSettings(timeout=timeout)  # type: ignore[typeddict-item]
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    if request.max_tokens is not None:
        settings["max_tokens"] = request.max_tokens
    else:
        most = model.profile.get("anthropic_max_output_tokens")
        if isinstance(most, int) and most > _DEFAULT_ANTHROPIC_TOKENS:
            settings["max_tokens"] = _DEFAULT_ANTHROPIC_TOKENS
    return settings


_rehearsed: set[str] = set()


def _is_of_another_thread(thread: int, record: logging.LogRecord) -> bool:
    return record.thread != thread


def _rehearse(name: str) -> None:
    """Make one call that stays in this process, on an event loop of this thread.

    The first call through an SDK builds the pydantic schemas of its types, which takes 0.15 to 0.2 s
    (measured) and would stop the event loop of the first real call. Prices are loaded by the way, for the
    same reason.
    """
    if name in _rehearsed:
        return
    import anyio.lowlevel
    import httpx2

    kind = KINDS[name]
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, json=kind.sample_answer))
    request = LLMRequest.model_validate({"messages": [{"role": "user", "content": "."}], "max_tokens": 1})

    async def call() -> None:
        provider = Provider(name, api_key="rehearsal", base_url=kind.base_url, max_connections=1)
        provider._client = kind.open_client("rehearsal", kind.base_url, {"transport": answer})
        await provider.ask(kind.sample_answer["model"], request, seconds=60, wire=Wire())
        await provider.aclose()
        # Loads what anyio needs on asyncio, which the answer above had no use for.
        await anyio.lowlevel.checkpoint()

    # The HTTP client logs each request, and this one would read as if it had been sent.
    thread = threading.get_ident()
    http_log = logging.getLogger("httpx2")
    elsewhere = partial(_is_of_another_thread, thread)
    http_log.addFilter(elsewhere)
    try:
        asyncio.run(call())
    finally:
        http_log.removeFilter(elsewhere)
    price(name, kind.sample_answer["model"], Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))
    _rehearsed.add(name)
