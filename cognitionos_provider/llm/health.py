"""Whether providers can be reached and accept their key: asked by listing models, which costs nothing."""

from __future__ import annotations

import asyncio
import time

from pydantic import BaseModel, ConfigDict

from cognitionos_provider.llm.failure import root_cause, short
from cognitionos_provider.llm.provider import Provider

__all__ = ["ProviderHealth", "check"]


class ProviderHealth(BaseModel):
    """What a provider said. ``authorised`` is None where its answer does not tell; ``error`` holds no key."""

    model_config = ConfigDict(frozen=True)

    provider: str
    reachable: bool
    authorised: bool | None = None
    http_status: int | None = None
    latency_ms: int = 0
    error: str | None = None


async def check(provider: Provider, seconds: float) -> ProviderHealth:
    """Ask a connected provider for its models, within ``seconds``; never raises for a provider's failure."""
    begun = time.monotonic()
    status: int | None = None
    reason: str | None = None
    reachable = True
    authorised: bool | None = None
    try:
        async with asyncio.timeout(seconds):
            await provider.list_models(seconds)
        status, authorised = 200, True
    except Exception as error:  # noqa: BLE001 - each SDK has a tree of its own; any failure is a finding here
        status = getattr(error, "status_code", None)
        reachable = status is not None
        authorised = False if status in (401, 403) else None
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            reason = f"no answer within {seconds:.3g} s"
        elif status is None:
            reason = short(root_cause(error), [provider.api_key or ""])
        elif authorised is False:
            reason = f"HTTP {status}: the API key is not accepted"
        else:
            reason = f"HTTP {status} for the list of models"
    return ProviderHealth(
        provider=provider.name,
        reachable=reachable,
        authorised=authorised,
        http_status=status,
        latency_ms=round((time.monotonic() - begun) * 1000),
        error=reason,
    )
