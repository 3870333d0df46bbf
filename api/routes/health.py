"""Whether the facade and what it stands on work."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from api.probes import Probe, ProbesDep
from api.schemas import AirflowHealth, Health, Part
from cognitionos_provider import __version__

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get(
    "/health", summary="Health", responses={503: {"model": Health, "description": "Something vital is down"}}
)
async def get_health(probes: ProbesDep, response: Response) -> Health:
    """Ask everything at once, each with a bound. 503 when the database or Airflow's scheduler is down."""
    database, api_server, redis, rabbitmq = await asyncio.gather(
        _ask(probes.database), _ask(probes.api_server), _ask(probes.redis), _ask(probes.rabbitmq)
    )
    now = datetime.now(UTC)

    def process(name: str) -> Part:
        return "healthy" if database == "healthy" and probes.process_is_alive(name, now) else "unhealthy"

    airflow = AirflowHealth(
        scheduler=process("scheduler"),
        triggerer=process("triggerer"),
        dag_processor=process("dag_processor"),
        api_server=api_server,
    )
    health = Health(
        status="healthy",
        version=__version__,
        timestamp=now,
        database=database,
        redis=redis,
        rabbitmq=rabbitmq,
        airflow=airflow,
    )
    if "unhealthy" in (database, airflow.scheduler, airflow.api_server):
        health.status = "unhealthy"
        response.status_code = 503
    elif "unhealthy" in (airflow.triggerer, airflow.dag_processor, redis, rabbitmq):
        health.status = "degraded"
    return health


async def _ask(probe: Probe | None) -> Part:
    if probe is None:
        return "not_configured"
    return "healthy" if await probe.answers() else "unhealthy"
