"""Whether the facade and what it stands on work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from api.airflow_db import read_heartbeats
from api.deps import AirflowDep, ConfigDep, heartbeat_thresholds, session_factory
from api.schemas import Health, Part
from cognitionos_provider import __version__
from cognitionos_provider.config import Config
from cognitionos_provider.observability import get_logger

__all__ = ["router"]

router = APIRouter(tags=["health"])
logger = get_logger(__name__)

LIMIT_SECONDS = 1.7
"""The answer comes within 2 s, whatever hangs."""


@router.get("/health", response_model=Health, summary="Health")
async def get_health(config: ConfigDep, airflow: AirflowDep) -> Response:
    """Ask everything at once, each with a bound. 503 when the database or Airflow's scheduler is down."""
    database, api_server, redis, rabbitmq = await asyncio.gather(
        _bounded(_airflow_processes, None),
        _bounded(airflow.is_reachable, False),
        _optional(config.redis.url, _redis_answers),
        _optional(config.rabbitmq.url, _rabbitmq_answers),
    )
    processes: dict[str, Part] = database or dict.fromkeys(heartbeat_thresholds(), "unhealthy")
    parts: dict[str, Part] = {**processes, "api_server": "healthy" if api_server else "unhealthy"}
    if database is None or parts["scheduler"] != "healthy" or not api_server:
        status = "unhealthy"
    elif "unhealthy" in {*parts.values(), redis, rabbitmq}:
        status = "degraded"
    else:
        status = "healthy"
    body = {
        "status": status,
        "version": __version__,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "database": "unhealthy" if database is None else "healthy",
        "redis": redis,
        "rabbitmq": rabbitmq,
        "airflow": parts,
    }
    return JSONResponse(body, 503 if status == "unhealthy" else 200)


async def _bounded(ask: Callable[[], Awaitable[Any]], otherwise: Any) -> Any:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await ask()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is unhealthy
        logger.warning("A health check failed", extra={"check": ask.__name__, "error": repr(error)})
        return otherwise


async def _optional(url: str | None, answers: Callable[[str], Awaitable[bool]]) -> Part:
    if url is None:
        return "not_configured"

    async def ask() -> bool:
        return await answers(url)

    ask.__name__ = answers.__name__
    return "healthy" if await _bounded(ask, False) else "unhealthy"


async def _airflow_processes() -> dict[str, Part]:
    """Ask the database, which knows when each of Airflow's processes last gave a sign of life."""

    def read() -> dict[str, datetime]:
        with session_factory()() as session:
            return read_heartbeats(session)

    heartbeats = await run_in_threadpool(read)
    now = datetime.now(UTC)
    return {
        name: "healthy" if name in heartbeats and now - heartbeats[name] < timedelta(seconds=seconds) else "unhealthy"
        for name, seconds in heartbeat_thresholds().items()
    }


async def _redis_answers(url: str) -> bool:
    from redis.asyncio import Redis

    async with Redis.from_url(url, socket_timeout=LIMIT_SECONDS, socket_connect_timeout=LIMIT_SECONDS) as client:
        return bool(await client.ping())


async def _rabbitmq_answers(url: str) -> bool:
    from kombu import Connection

    def connect() -> bool:
        with Connection(url, connect_timeout=LIMIT_SECONDS) as connection:
            connection.connect()
            return bool(connection.connected)

    return await run_in_threadpool(connect)
