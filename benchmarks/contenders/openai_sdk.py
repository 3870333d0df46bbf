"""The OpenAI SDK alone: what any of the others costs is told over this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.contender import PRIMARY_MODEL, Route

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["create"]


class OpenAISDK:
    """One client with its own pool; no fallback."""

    packages = ("openai",)
    settings = ("`AsyncOpenAI(max_retries=0)`",)
    _client: AsyncOpenAI

    async def open(self, route: Route) -> None:
        """See ``Contender``; the route's fallback is not used."""
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(api_key="any", base_url=route.primary, max_retries=0)

    async def ask(self, text: str) -> str:
        """See ``Contender``."""
        answer = await self._client.chat.completions.create(
            model=PRIMARY_MODEL, messages=[{"role": "user", "content": text}]
        )
        return answer.model

    async def aclose(self) -> None:
        """See ``Contender``."""
        await self._client.close()


def create(_variant: str) -> OpenAISDK:
    """Make the contender."""
    return OpenAISDK()
