"""Which models a request is put to, and over which connections, in order: from names to candidates. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cognitionos_provider.exceptions import UnknownModelError
from cognitionos_provider.llm.connection import Connection
from cognitionos_provider.llm.request import LLMRequest

__all__ = ["DEFAULT_MODELS", "Candidate", "chain_of", "split_name"]

DEFAULT_MODELS = ("openai:gpt-6-luna", "anthropic:claude-haiku-5-5")
"""The chain of a request that names no model, and the fallback of one that names a single model."""

# How a bare name tells its provider. Fine-tuned OpenAI models are named ``ft:<base model>:...``.
_PREFIXES: dict[str, tuple[str, ...]] = {
    "openai": ("gpt", "chatgpt", "o1", "o3", "o4", "ft:gpt", "ft:o1", "ft:o3", "ft:o4"),
    "anthropic": ("claude",),
    "google": ("gemini",),
}


class Candidate(NamedTuple):
    """A model over a connection; its text is ``provider:model``."""

    connection: str
    provider: str
    model: str

    def __str__(self) -> str:
        over = "" if self.connection == self.provider else f" over {self.connection!r}"
        return f"{self.provider}:{self.model}{over}"


def split_name(name: str) -> tuple[str, str]:
    """Split ``provider:model`` or a bare model name into provider and model.

    Raises :class:`UnknownModelError` where it tells no provider.
    """
    provider, colon, model = name.partition(":")
    if not colon or provider.lower() == "ft":
        for known, prefixes in _PREFIXES.items():
            if name.lower().startswith(prefixes):
                return known, name
    elif provider and model:
        return provider, model
    raise UnknownModelError(
        f"No provider is known for model {name!r}: write '<provider>:<model>' to say who serves it, such as "
        "'openai:gpt-4', 'anthropic:claude-3-haiku-20240307' or 'local:llama3.3'"
    )


def chain_of(
    request: LLMRequest, connections: Sequence[Connection], defaults: Sequence[str]
) -> list[Candidate]:
    """Return the candidates of a request, in the order in which they are asked, each once.

    A model is asked over each connection of its provider, in their order; one whose provider has no connection
    gets one with the provider's name, whose key may be in the environment. A request that names no model is put
    to the default model of each connection, or to ``defaults`` where no connection has one. One that names a
    single ``model`` falls back to the first default model of each other provider that has a connection with a key.

    Raises :class:`UnknownModelError` if any name of the chain tells no provider, so that nothing is sent for a
    chain that is wrong further down.
    """
    own = [
        Candidate(each.name, each.provider, each.default_model) for each in connections if each.default_model
    ]
    if request.models:
        return _unique(request.models, connections)
    if request.model is not None:
        first = _over(request.model, connections)
        fallbacks: dict[str, Candidate] = {}
        keyed = {each.provider for each in connections if each.api_key is not None}
        for other in [*own, *_unique(defaults, connections)]:
            if other.provider != first[0].provider and other.provider in keyed:
                fallbacks.setdefault(other.provider, other)
        return list(dict.fromkeys([*first, *fallbacks.values()]))
    return list(dict.fromkeys(own)) or _unique(defaults, connections)


def _unique(names: Sequence[str], connections: Sequence[Connection]) -> list[Candidate]:
    return list(dict.fromkeys(candidate for name in names for candidate in _over(name, connections)))


def _over(name: str, connections: Sequence[Connection]) -> list[Candidate]:
    provider, model = split_name(name)
    over = [each.name for each in connections if each.provider == provider]
    if not over:
        taken = any(each.name == provider for each in connections)
        over = [f"{provider}/environment" if taken else provider]
    return [Candidate(each, provider, model) for each in over]
