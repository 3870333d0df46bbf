"""Ask a language model, with fallback across providers, one deadline, and a record of every attempt.

::

    from cognitionos_provider.llm import LLMRequest, create_llm_router

    async with create_llm_router(openai_api_key=..., anthropic_api_key=...) as router:
        request = LLMRequest(messages=[{"role": "user", "content": "Hello!"}], model="gpt-4")
        response = await router.generate(request)
        print(response.content, response.provider, response.cost_usd)

Importing this package is cheap: its parts are loaded when they are asked for, since each parse of a DAG file imports
it for the sake of a retry block; the SDKs are loaded in a thread when a router is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cognitionos_provider.llm.budget import Budget
    from cognitionos_provider.llm.chain import DEFAULT_MODELS
    from cognitionos_provider.llm.connection import Connection, Limits, Price
    from cognitionos_provider.llm.health import ProviderHealth
    from cognitionos_provider.llm.journal import Journal
    from cognitionos_provider.llm.policy import POLICY, Action
    from cognitionos_provider.llm.provider import LLMProvider, Opened
    from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse, Message, Retry, Usage
    from cognitionos_provider.llm.router import LLMRouter, create_llm_router

__all__ = [
    "DEFAULT_MODELS",
    "POLICY",
    "Action",
    "Attempt",
    "Budget",
    "Connection",
    "Journal",
    "LLMProvider",
    "LLMRequest",
    "LLMResponse",
    "LLMRouter",
    "Limits",
    "Message",
    "Opened",
    "Price",
    "ProviderHealth",
    "Retry",
    "Usage",
    "create_llm_router",
]

_MODULES = {
    "Action": "policy",
    "Attempt": "request",
    "Budget": "budget",
    "Connection": "connection",
    "DEFAULT_MODELS": "chain",
    "Journal": "journal",
    "LLMProvider": "provider",
    "LLMRequest": "request",
    "LLMResponse": "request",
    "LLMRouter": "router",
    "Limits": "connection",
    "Message": "request",
    "Opened": "provider",
    "POLICY": "policy",
    "Price": "connection",
    "ProviderHealth": "health",
    "Retry": "request",
    "Usage": "request",
    "create_llm_router": "router",
}


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
