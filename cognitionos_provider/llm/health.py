"""Whether providers can be reached and accept their key: asked by listing models, which costs nothing."""

from __future__ import annotations

import asyncio
import time

from pydantic import BaseModel, ConfigDict

from cognitionos_provider.llm.client import Client
from cognitionos_provider.llm.connection import Connection
from cognitionos_provider.llm.failure import root_cause, short

__all__ = ["ProviderHealth", "check", "unreachable"]


class ProviderHealth(BaseModel):
    """What a provider said over a connection.

    ``authorised`` is None where its answer does not tell, and where the provider has no call that costs nothing.
    ``error`` holds no key. ``breakers`` holds the state of each model's breaker that is not closed.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    connection: str
    reachable: bool
    authorised: bool | None = None
    http_status: int | None = None
    latency_ms: int = 0
    error: str | None = None
    breakers: dict[str, str] = {}


def unreachable(connection: Connection, error: str) -> ProviderHealth:
    """Say that a connection could not be asked at all."""
    return ProviderHealth(
        provider=connection.provider, connection=connection.name, reachable=False, error=error
    )


async def check(client: Client, seconds: float) -> ProviderHealth:
    """Ask a connected provider for its models, within ``seconds``; never raises for a provider's failure."""
    if client.closed_to is not None:
        return unreachable(client.connection, client.closed_to)
    begun = time.monotonic()
    status: int | None = None
    reason: str | None = None
    reachable = True
    authorised: bool | None = None
    try:
        async with asyncio.timeout(seconds):
            if await client.list_models(seconds):
                status, authorised = 200, True
    except Exception as error:  # noqa: BLE001 - each SDK has a tree of its own; any failure is a finding here
        status = getattr(error, "status_code", None)
        reachable = status is not None
        authorised = False if status in (401, 403) else None
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            reason = f"no answer within {seconds:.3g} s"
        elif status is None:
            reason = short(root_cause(error), [client.secret or ""])
        elif authorised is False:
            reason = f"HTTP {status}: the API key is not accepted"
        else:
            reason = f"HTTP {status} for the list of models"
    return ProviderHealth(
        provider=client.connection.provider,
        connection=client.connection.name,
        reachable=reachable,
        authorised=authorised,
        http_status=status,
        latency_ms=round((time.monotonic() - begun) * 1000),
        error=reason,
    )
