"""One connection as a router uses it: its open client, and one call without any retry.

All that is slow (importing the SDKs and pydantic-ai, building an SSL context, building the pydantic schemas of
a provider's answer at its first call) happens in :meth:`Client.connect`, which is to be run in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cognitionos_provider.exceptions import ConfigurationError, UnknownModelError
from cognitionos_provider.llm.connection import Connection
from cognitionos_provider.llm.failure import short
from cognitionos_provider.llm.pricing import price
from cognitionos_provider.llm.provider import BUILT_IN, LLMProvider, Opened, find_provider
from cognitionos_provider.llm.request import LLMRequest, Message, Usage
from cognitionos_provider.llm.structure import ask_for_object

if TYPE_CHECKING:
    import httpx2
    from pydantic import JsonValue
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings

__all__ = ["CALL_ID_HEADER", "Client", "Wire"]

CALL_ID_HEADER = "X-Client-Request-Id"
"""Tells a provider our id of a call, so that one whose answer got lost can be asked after (OpenAI logs it)."""

# A host that does not answer at all must not use up the time of the candidates behind it.
_CONNECT_SECONDS = 10.0
# The pool looks at the socket of each idle connection whenever a call begins or ends: with 1,000 of them,
# 1,000 calls at once took 13 s of the loop, with 100 (the SDKs' own default, too) 5 s (measured).
_MOST_IDLE_CONNECTIONS = 100
# Model objects hold no connection; names come from workflow definitions, so there may be any number of them.
_MOST_MODELS = 256
# Above it pydantic-ai streams the answer, and a model's own maximum may be 64,000 tokens and more.
_DEFAULT_ANTHROPIC_TOKENS = 16_384


@dataclass(slots=True)
class Wire:
    """Whether a request went out: what tells a refused connection from an answer that got lost."""

    call_id: str = ""
    watched: bool = False
    """Whether the request went through our HTTP client, so that ``sent`` can be trusted."""
    sent: bool = False
    asked: bool = False
    """Whether the provider's model was told to send it at all."""

    @property
    def may_have_arrived(self) -> bool:
        """Whether the provider may have got the request; sure only where it went through our client."""
        return self.sent if self.watched else self.asked

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow one HTTP request (httpcore's ``trace`` extension)."""
        if event.endswith("send_request_body.started") and info["request"].method != b"CONNECT":
            self.sent = True


_wire: ContextVar[Wire | None] = ContextVar("cognitionos_llm_wire", default=None)


async def _watch(request: httpx2.Request) -> None:
    if (wire := _wire.get()) is not None:
        wire.watched = True
        request.headers[CALL_ID_HEADER] = wire.call_id
        request.extensions["trace"] = wire.trace


@dataclass(eq=False)
class Client:
    """An open connection. ``closed_to`` tells why it can't be used, where it can't."""

    connection: Connection
    max_connections: int
    closed_to: str | None = field(default=None, init=False)
    _http: httpx2.AsyncClient | None = field(default=None, init=False, repr=False)
    _opened: Opened | None = field(default=None, init=False, repr=False)
    _models: dict[str, Model] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def account(self) -> str:
        """What tells this account from others that share a Redis, and from the same one with another key.

        A breaker that opened for a wrong key must not hold for the right one.
        """
        told = f"{self.connection.provider}\n{self.connection.base_url}\n{self.secret}"
        digest = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        return f"{self.connection.name}@{digest}"

    @property
    def secret(self) -> str | None:
        """The key, for those who have to hide it."""
        key = self.connection.api_key
        return None if key is None else key.get_secret_value()

    def connect(self, http_options: Mapping[str, Any] | None = None) -> None:
        """Load the SDK and open the client; takes seconds the first time in a process, so run it in a thread.

        A connection that can't be used says why in ``closed_to``, and hinders no other. Raises
        :class:`ConfigurationError` if the client of a built-in provider can't be built, for a broken proxy or
        certificate setting for example, and :class:`UnknownModelError` for a provider that is none.
        """
        if self._opened is not None:
            return
        self.closed_to = None
        connection = self.connection
        try:
            provider = find_provider(connection.provider)
        except ConfigurationError as error:
            self.closed_to = str(error)
            return
        except UnknownModelError as error:
            self.closed_to = str(error)
            raise
        if provider.needs_key and connection.api_key is None:
            self.closed_to = (
                f"no API key for {connection.provider}; set it on the connection or in the environment"
            )
            return
        if http_options is None:
            _rehearse(connection.provider, provider)
        self._open(provider, http_options or self._http_options())

    def _open(self, provider: LLMProvider, http_options: Mapping[str, Any]) -> None:
        name = self.connection.provider
        try:
            http = _http_client(name, http_options)
            self._opened, self._http = provider.open(self.connection, http), http
        except ConfigurationError as error:
            self.closed_to = str(error)
        except Exception as error:
            if name not in BUILT_IN:
                reason = short(f"{type(error).__name__}: {error}", [self.secret or ""])
                self.closed_to = f"{name} can't be used: {reason}"
                return
            raise ConfigurationError(
                f"The HTTP client of {name} can't be built ({type(error).__name__}): "
                "check its base URL and the proxy and certificate settings of the environment"
            ) from error

    def _http_options(self) -> dict[str, Any]:
        import httpx2

        limits = httpx2.Limits(
            # Calls queue up at the gate of their model (limits.py). Here, a wait would count as the provider's.
            max_connections=None,
            max_keepalive_connections=min(self.max_connections, _MOST_IDLE_CONNECTIONS),
            keepalive_expiry=30,
        )
        # Redirects are not followed: the key would travel to an address that nobody configured.
        return {"limits": limits, "event_hooks": {"request": [_watch]}, "follow_redirects": False}

    async def ask(
        self, model: str, request: LLMRequest, messages: list[Message], *, seconds: float, wire: Wire
    ) -> ModelResponse:
        """Send messages once, without any retry, and return pydantic-ai's answer or raise its error."""
        from pydantic_ai.direct import model_request, model_request_stream

        token = _wire.set(wire)
        try:
            subject = self._model(model)
            said = _messages(messages)
            if any(message.role == "system" for message in messages[1:]):
                # Not every model takes system text after the start; pydantic-ai knows the way out.
                said = subject.prepare_messages(said)
            settings = _settings(subject, request, seconds)
            wanted = None if request.output_schema is None else ask_for_object(subject, request.output_schema)
            wire.asked = True
            if not request.stream:
                return await model_request(
                    subject, said, model_settings=settings, model_request_parameters=wanted, instrument=False
                )
            async with model_request_stream(
                subject, said, model_settings=settings, model_request_parameters=wanted, instrument=False
            ) as stream:
                async for _ in stream:
                    pass
                return stream.get()
        finally:
            _wire.reset(token)

    def context_window(self, model: str) -> int | None:
        """Return how many tokens a model can read, where that is known."""
        return self._model(model).context_window

    async def list_models(self, seconds: float) -> bool:
        """Make a real call that costs nothing; False where there is none. Raises the SDK's own errors."""
        call = self._open_client().list_models
        if call is None:
            return False
        await call(seconds)
        return True

    async def aclose(self) -> None:
        """Close every connection."""
        opened, self._opened = self._opened, None
        http, self._http = self._http, None
        self._models.clear()
        if opened is not None and opened.aclose is not None:
            await opened.aclose()
        if http is not None:
            await http.aclose()

    def _open_client(self) -> Opened:
        if self._opened is None:
            raise RuntimeError(f"the connection to {self.connection.name} was closed during the call")
        return self._opened

    def _model(self, name: str) -> Model:
        opened = self._open_client()
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _MOST_MODELS:
                self._models.clear()
            model = self._models[name] = opened.model(name)
        return model


def _http_client(provider: str, options: Mapping[str, Any]) -> httpx2.AsyncClient:
    # Each SDK knows best how its servers like to be connected to: Anthropic's keeps idle connections alive.
    if provider == "anthropic":
        from anthropic import DefaultAsyncHttpxClient as AnthropicClient

        return AnthropicClient(**options)
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient(**options)


def _messages(messages: list[Message]) -> list[ModelMessage]:
    from pydantic_ai.messages import (
        ModelRequest,
        ModelRequestPart,
        ModelResponse,
        SystemPromptPart,
        TextPart,
        UserPromptPart,
    )

    said: list[ModelMessage] = []
    parts: list[ModelRequestPart] = []
    for message in messages:
        if message.role == "assistant":
            if parts:
                said.append(ModelRequest(parts=parts))
                parts = []
            said.append(ModelResponse(parts=[TextPart(message.content)]))
        else:
            part = SystemPromptPart if message.role == "system" else UserPromptPart
            parts.append(part(message.content))
    if parts:
        said.append(ModelRequest(parts=parts))
    return said


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


def _rehearse(name: str, provider: LLMProvider) -> None:
    """Make calls that stay in this process, on an event loop of this thread.

    The first call through an SDK builds the pydantic schemas of its types, which takes 0.15 to 0.2 s
    (measured) and would stop the event loop of the first real call. Prices are loaded by the way, for the
    same reason.
    """
    if name in _rehearsed or provider.sample_answer is None:
        return
    import anyio.lowlevel
    import httpx2

    sample = provider.sample_answer
    model: str = sample["model"]
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, json=sample))
    message = Message(role="user", content=".")
    schema: dict[str, JsonValue] = {"type": "object", "properties": {}}
    plain = LLMRequest(messages=[message], max_tokens=1)
    stage = Connection.model_validate(
        {"name": name, "provider": name, "api_key": "rehearsal", "base_url": "http://rehearsal.invalid/v1"}
    )

    async def calls() -> None:
        client = Client(stage, max_connections=1)
        client.connect({"transport": answer})
        for request in (plain, plain.model_copy(update={"output_schema": schema})):
            await client.ask(model, request, [message], seconds=60, wire=Wire())
        client.context_window(model)
        await client.aclose()
        # Loads what anyio needs on asyncio, which the answer above had no use for.
        await anyio.lowlevel.checkpoint()

    # The HTTP client logs each request, and this one would read as if it had been sent.
    thread = threading.get_ident()
    http_log = logging.getLogger("httpx2")
    elsewhere = partial(_is_of_another_thread, thread)
    http_log.addFilter(elsewhere)
    try:
        asyncio.run(calls())
    finally:
        http_log.removeFilter(elsewhere)
    price(name, model, Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))
    _rehearsed.add(name)
