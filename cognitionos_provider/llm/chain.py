"""Which models a request is put to, in order: from names to candidates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from cognitionos_provider.exceptions import UnknownModelError
from cognitionos_provider.llm.request import LLMRequest

__all__ = ["DEFAULT_MODELS", "Candidate", "candidate", "chain_of"]

DEFAULT_MODELS = ("openai:gpt-6-luna", "anthropic:claude-haiku-5-5")
"""The chain of a request that names no model, and the fallback of one that names a single model."""

# How a bare name tells its provider. Fine-tuned OpenAI models are named ``ft:<base model>:...``.
_PREFIXES: dict[str, tuple[str, ...]] = {
    "openai": ("gpt", "chatgpt", "o1", "o3", "o4", "ft:gpt", "ft:o1", "ft:o3", "ft:o4"),
    "anthropic": ("claude",),
}


class Candidate(NamedTuple):
    """A model at a provider; its text is ``provider:model``."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


def candidate(name: str) -> Candidate:
    """Find the provider of ``provider:model`` or of a bare model name.

    Raises :class:`UnknownModelError` where there is none. ``openai`` means Chat Completions and
    ``anthropic`` the Messages API, at whatever base URL the router was given.
    """
    provider, _, model = name.partition(":")
    if provider in _PREFIXES and model:
        return Candidate(provider, model)
    for provider, prefixes in _PREFIXES.items():
        if name.lower().startswith(prefixes):
            return Candidate(provider, name)
    known = " or ".join(f"'{provider}:<model>'" for provider in _PREFIXES)
    raise UnknownModelError(f"No provider is known for model {name!r}: write {known} to say who serves it")


def chain_of(request: LLMRequest, defaults: Sequence[str], configured: Collection[str]) -> list[Candidate]:
    """Return the candidates of a request, in the order in which they are asked, each once.

    ``defaults`` is the router's default chain and ``configured`` the providers that have a key. Raises
    :class:`UnknownModelError` if any name of the chain has no provider, so that nothing is sent for a
    chain that is wrong further down.
    """
    if request.models or request.model is None:
        return list(dict.fromkeys(candidate(name) for name in request.models or defaults))
    first = candidate(request.model)
    fallback: dict[str, Candidate] = {}
    for other in map(candidate, defaults):
        if other.provider != first.provider and other.provider in configured:
            fallback.setdefault(other.provider, other)
    return [first, *fallback.values()]
