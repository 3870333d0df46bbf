"""How each provider is reached: two of our own, servers compatible with OpenAI, all of pydantic-ai, and others.

Another package adds a provider by an entry point in the group ``cognitionos.llm_providers``: its name is the
provider's, and it loads an :class:`LLMProvider`::

    def open_acme(connection: Connection, http: httpx2.AsyncClient) -> Opened:
        provider = AcmeProvider(api_key=connection.api_key.get_secret_value(), http_client=http)
        return Opened(model=lambda name: AcmeModel(name, provider=provider))

    ACME = LLMProvider(open=open_acme)

Everything here runs in the thread that connects: the SDKs and pydantic-ai are slow to import.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cognitionos_provider.exceptions import ConfigurationError, UnknownModelError
from cognitionos_provider.llm.connection import Connection

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "LLMProvider", "Opened", "find_provider", "needs_key"]

ENTRY_POINT_GROUP = "cognitionos.llm_providers"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open connection: its models, and a call that costs nothing and shows whether the key is accepted.

    ``model`` makes a model by name; it must not retry by itself. ``list_models`` is given the seconds that it
    may take; None where the provider has no such call. ``aclose`` closes what is not the HTTP client's.
    """

    model: Callable[[str], Model]
    list_models: Callable[[float], Awaitable[object]] | None = None
    aclose: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class LLMProvider:
    """A provider. ``open`` raises whatever it likes; ``needs_key``: a connection without a key is skipped."""

    open: Callable[[Connection, httpx2.AsyncClient], Opened]
    needs_key: bool = True
    base_url: str | None = None
    sample_answer: Mapping[str, Any] | None = None
    """An answer as it comes over the wire, for a rehearsal of the first call (``client.py``)."""


def _key(connection: Connection) -> str:
    return "none" if connection.api_key is None else connection.api_key.get_secret_value()


def _open_openai(connection: Connection, http: httpx2.AsyncClient) -> Opened:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    url = connection.base_url or _OPENAI_URL
    client = AsyncOpenAI(api_key=_key(connection), base_url=url, max_retries=0, http_client=http)
    provider = OpenAIProvider(openai_client=client)
    return Opened(
        model=lambda name: OpenAIChatModel(name, provider=provider),
        list_models=lambda seconds: client.models.list(timeout=seconds),
    )


def _open_local(connection: Connection, http: httpx2.AsyncClient) -> Opened:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    if connection.base_url is None:
        raise ConfigurationError(
            f"Connection {connection.name!r} of provider 'local' has no base URL: set it on the connection, or "
            "LLM_LOCAL_BASE_URL, to where the server speaks OpenAI Chat Completions, such as http://localhost:11434/v1"
        )
    client = AsyncOpenAI(
        api_key=_key(connection), base_url=connection.base_url, max_retries=0, http_client=http
    )
    provider = OpenAICompatibleProvider("local", openai_client=client)
    return Opened(
        model=lambda name: OpenAIChatModel(name, provider=provider),
        list_models=lambda seconds: client.models.list(timeout=seconds),
    )


def _open_anthropic(connection: Connection, http: httpx2.AsyncClient) -> Opened:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    # The SDK adds the /v1 that OpenAI's base URLs carry themselves.
    url = (connection.base_url or _ANTHROPIC_URL).removesuffix("/v1")
    client = AsyncAnthropic(api_key=_key(connection), base_url=url, max_retries=0, http_client=http)
    provider = AnthropicProvider(anthropic_client=client)
    return Opened(
        model=lambda name: AnthropicModel(name, provider=provider),
        list_models=lambda seconds: client.models.list(timeout=seconds),
    )


# Explicit: the SDKs would take a base URL from the environment, past our settings.
_OPENAI_URL = "https://api.openai.com/v1"
_ANTHROPIC_URL = "https://api.anthropic.com"

_OPENAI_SAMPLE = {
    "id": "sample",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_ANTHROPIC_SAMPLE = {
    "id": "sample",
    "type": "message",
    "role": "assistant",
    "model": "claude-3-haiku-20240307",
    "content": [{"type": "text", "text": "."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}

BUILT_IN: Mapping[str, LLMProvider] = MappingProxyType(
    {
        "openai": LLMProvider(_open_openai, base_url=_OPENAI_URL, sample_answer=_OPENAI_SAMPLE),
        "anthropic": LLMProvider(_open_anthropic, base_url=_ANTHROPIC_URL, sample_answer=_ANTHROPIC_SAMPLE),
        "local": LLMProvider(_open_local, needs_key=False, sample_answer=_OPENAI_SAMPLE),
    }
)
"""``openai`` means Chat Completions and ``anthropic`` the Messages API, at whatever base URL a connection names."""


def needs_key(name: str) -> bool:
    """Whether a connection of this provider can only be used with a key; cheap, and yes for those not built in."""
    return BUILT_IN[name].needs_key if name in BUILT_IN else True


def find_provider(name: str) -> LLMProvider:
    """Find a provider: a built-in one, one of another package, or one of pydantic-ai, in this order.

    Slow at its first call. Raises :class:`UnknownModelError` where there is none, and
    :class:`ConfigurationError` where another package's can't be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            found = entry_point.load()
        except Exception as error:
            raise ConfigurationError(
                f"Provider {name!r} can't be loaded from {entry_point.value} ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(found, LLMProvider):
            raise ConfigurationError(f"Provider {name!r}: {entry_point.value} is no LLMProvider")
        return found
    from pydantic_ai.providers import infer_provider_class

    try:
        infer_provider_class(name)
    except ValueError:
        raise UnknownModelError(
            f"No provider is known for model '{name}:...': it is none of {', '.join(sorted(BUILT_IN))}, none of "
            f"pydantic-ai's, and no package adds it (entry-point group {ENTRY_POINT_GROUP})"
        ) from None
    except ImportError as error:
        raise ConfigurationError(f"Provider {name!r} needs another package: {error}") from error
    # Its key may be in the environment, under that provider's own name for it.
    return LLMProvider(lambda connection, http: _open_inferred(name, connection, http), needs_key=False)


def _open_inferred(name: str, connection: Connection, http: httpx2.AsyncClient) -> Opened:
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import infer_provider_class

    kind: Callable[..., Any] = infer_provider_class(name)
    given: dict[str, Any] = {**connection.options, "base_url": connection.base_url, "http_client": http}
    if connection.api_key is not None:
        given["api_key"] = connection.api_key.get_secret_value()
    taken = inspect.signature(kind).parameters
    arguments = {key: value for key, value in given.items() if value is not None and key in taken}
    if connection.base_url is not None and "base_url" not in taken:
        raise ConfigurationError(
            f"Provider {name!r} takes no base URL, and connection {connection.name!r} has one"
        )
    try:
        provider = kind(**arguments)
    except TypeError:
        # Some SDKs still take a client of the older httpx only, and then make their own.
        arguments.pop("http_client", None)
        provider = kind(**arguments)
    client = provider.client
    if hasattr(client, "max_retries"):
        client.max_retries = 0
    # Most of them use the SDK of OpenAI, or one of the same make.
    listing = getattr(getattr(client, "models", None), "list", None)
    return Opened(
        model=lambda model: infer_model(f"{name}:{model}", provider_factory=lambda _: provider),
        list_models=None if listing is None or not _takes_timeout(listing) else lambda s: listing(timeout=s),
        aclose=lambda: provider.__aexit__(None, None, None),
    )


def _takes_timeout(call: Callable[..., Any]) -> bool:
    try:
        return "timeout" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False
