"""LiteLLM's ``Router`` with a fallback."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.contenders.contender import FALLBACK_MODEL, PRIMARY_MODEL, Route

__all__ = ["create"]

_VARIANTS: Mapping[str, tuple[Mapping[str, Any], str]] = MappingProxyType(
    {
        "defaults": ({}, "`Router(model_list=..., fallbacks=...)`, which retries twice before it falls back"),
        # By default LiteLLM never leaves a model group of one deployment alone, as the primary is here.
        "tuned": (
            {"num_retries": 0, "allowed_fails": 1},
            "`Router(model_list=..., fallbacks=..., num_retries=0, allowed_fails=1)`, which falls back at once "
            "and leaves a deployment alone for a while after two failures",
        ),
    }
)
_COMMON = (
    "`AIOHTTP_CONNECTOR_LIMIT_PER_HOST=1000`, since its default allows 500 calls in flight to one host",
    "`LITELLM_LOCAL_MODEL_COST_MAP=True` and `LITELLM_OFFLINE_MODE=true`, so that it fetches nothing",
)


class LiteLLM:
    """A router over two model groups of one deployment each."""

    packages = ("litellm", "openai", "aiohttp")
    _router: Any
    _model: str

    def __init__(self, variant: str) -> None:
        self._options, router = _VARIANTS[variant]
        self.settings = (router, "an attempt's timeout, where one is set, by `Router(timeout=...)`", *_COMMON)

    async def open(self, route: Route) -> None:
        """See ``Contender``."""
        from litellm import Router  # type: ignore[import-not-found]  # in an environment of its own

        options = dict(self._options)
        if route.attempt_seconds is not None:
            options["timeout"] = route.attempt_seconds
        models = [_deployment("fallback", f"anthropic/{FALLBACK_MODEL}", route.fallback)]
        self._model = "fallback"
        if route.primary is not None:
            models.append(_deployment("primary", f"openai/{PRIMARY_MODEL}", route.primary))
            options["fallbacks"] = [{"primary": ["fallback"]}]
            self._model = "primary"
        self._router = Router(model_list=models, **options)

    async def ask(self, text: str) -> str:
        """See ``Contender``."""
        answer = await self._router.acompletion(self._model, messages=[{"role": "user", "content": text}])
        return str(answer.model)

    async def aclose(self) -> None:
        """Do nothing: LiteLLM keeps its HTTP clients in a cache of the process."""


def _deployment(group: str, model: str, url: str) -> dict[str, Any]:
    return {"model_name": group, "litellm_params": {"model": model, "api_base": url, "api_key": "any"}}


def create(variant: str) -> LiteLLM:
    """Make the contender."""
    return LiteLLM(variant)
