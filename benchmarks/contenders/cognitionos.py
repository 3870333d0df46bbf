"""This project's router."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.contender import FALLBACK_MODEL, PRIMARY_MODEL, Route

if TYPE_CHECKING:
    from cognitionos_provider.llm import LLMRouter

__all__ = ["create"]

# What a variant hands to create_llm_router beside keys and addresses, and how the report says it.
_VARIANTS: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = MappingProxyType(
    {
        "plain": (
            {},
            (
                "`create_llm_router` with its defaults",
                "an attempt's timeout, where one is set, by `timeout_seconds`",
            ),
        ),
        "journal": (
            {},
            (
                "the same, with a journal per call that is kept in memory: what intent and journal cost on this side;"
                " Airflow's XCom adds the time of two writes",
            ),
        ),
    }
)


class _Memory(dict[str, str]):
    """Where a journal is kept that takes no time to write."""

    async def read(self, key: str) -> str | None:
        return self.get(key)

    async def write(self, key: str, text: str) -> None:
        self[key] = text


class CognitionOS:
    """``create_llm_router``, as the hook makes it."""

    packages = ("cognitionos-provider", "pydantic-ai-slim", "openai", "anthropic")
    _router: LLMRouter
    _models: tuple[str, ...]

    def __init__(self, variant: str) -> None:
        self._options, self.settings = _VARIANTS[variant]
        self._journals = variant == "journal"

    async def open(self, route: Route) -> None:
        """See ``Contender``."""
        from cognitionos_provider.llm import create_llm_router

        fallback = f"anthropic:{FALLBACK_MODEL}"
        self._models = (fallback,) if route.primary is None else (f"openai:{PRIMARY_MODEL}", fallback)
        options = dict(self._options)
        if route.attempt_seconds is not None:
            options["timeout_seconds"] = route.attempt_seconds
        self._router = create_llm_router(
            openai_api_key="any",
            anthropic_api_key="any",
            openai_base_url=route.primary,
            anthropic_base_url=route.fallback,
            **options,
        )
        await self._router.warm_up()

    async def ask(self, text: str) -> str:
        """See ``Contender``."""
        from cognitionos_provider.llm import LLMRequest, Message

        request = LLMRequest(messages=[Message(role="user", content=text)], models=self._models)
        if not self._journals:
            return (await self._router.generate(request)).model
        from cognitionos_provider.llm import Journal

        journal = Journal(_Memory(), 1)
        await journal.open()
        response = await self._router.generate(request, journal=journal)
        await journal.finish(None)
        return response.model

    async def aclose(self) -> None:
        """See ``Contender``."""
        await self._router.aclose()


def create(variant: str) -> CognitionOS:
    """Make the contender."""
    return CognitionOS(variant)
