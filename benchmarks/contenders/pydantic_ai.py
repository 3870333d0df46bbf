"""pydantic-ai's ``FallbackModel``, called without an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.contender import FALLBACK_MODEL, PRIMARY_MODEL, Route

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings

__all__ = ["create"]


class PydanticAI:
    """A chat model of OpenAI's and one of Anthropic's, in a ``FallbackModel``."""

    packages = ("pydantic-ai-slim", "openai", "anthropic")
    settings = (
        "both SDK clients with `max_retries=0`, which pydantic-ai's documentation recommends for `FallbackModel`",
        "an attempt's timeout, where one is set, by `ModelSettings(timeout=...)`",
    )
    _clients: list[AsyncOpenAI | AsyncAnthropic]
    _model: Model
    _model_settings: ModelSettings | None

    async def open(self, route: Route) -> None:
        """See ``Contender``."""
        from anthropic import AsyncAnthropic
        from openai import AsyncOpenAI
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.models.fallback import FallbackModel
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.anthropic import AnthropicProvider
        from pydantic_ai.providers.openai import OpenAIProvider
        from pydantic_ai.settings import ModelSettings

        self._clients = []
        models: list[Model] = []
        if route.primary is not None:
            openai = AsyncOpenAI(api_key="any", base_url=route.primary, max_retries=0)
            self._clients.append(openai)
            models.append(OpenAIChatModel(PRIMARY_MODEL, provider=OpenAIProvider(openai_client=openai)))
        anthropic = AsyncAnthropic(api_key="any", base_url=route.fallback, max_retries=0)
        self._clients.append(anthropic)
        models.append(AnthropicModel(FALLBACK_MODEL, provider=AnthropicProvider(anthropic_client=anthropic)))
        self._model = FallbackModel(*models)
        seconds = route.attempt_seconds
        self._model_settings = None if seconds is None else ModelSettings(timeout=seconds)

    async def ask(self, text: str) -> str:
        """See ``Contender``."""
        from pydantic_ai.direct import model_request
        from pydantic_ai.messages import ModelRequest

        messages = [ModelRequest.user_text_prompt(text)]
        answer = await model_request(self._model, messages, model_settings=self._model_settings)
        return answer.model_name or ""

    async def aclose(self) -> None:
        """See ``Contender``."""
        for client in self._clients:
            await client.close()


def create(_variant: str) -> PydanticAI:
    """Make the contender."""
    return PydanticAI()
