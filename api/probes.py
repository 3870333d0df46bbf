"""Whether the database, Airflow, Redis and RabbitMQ answer: each asked with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from api.airflow_client import AirflowClient
from api.airflow_db import read_heartbeats
from api.deps import heartbeat_thresholds, session_factory
from cognitionos_provider.config import Config
from cognitionos_provider.observability import get_logger

__all__ = ["LIMIT_SECONDS", "Probe", "Probes", "ProbesDep"]

logger = get_logger(__name__)

LIMIT_SECONDS = 1.7
"""The answer of /health comes within 2 s, whatever hangs."""


class Probe:
    """A question to a server that may hang.

    It is never asked twice at the same time: whoever asks while it hangs waits for the same answer, so that a
    server which is gone takes one thread or connection, not one for each request to ``/health``.
    """

    def __init__(self, name: str, ask: Callable[[], Awaitable[bool]]) -> None:
        self.name = name
        self._ask = ask
        self._running: asyncio.Future[bool] | None = None

    async def answers(self) -> bool:
        """Ask, or join who is asking; False after ``LIMIT_SECONDS`` without an answer."""
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._ask())
        # Unlike wait_for, it leaves the question running.
        await asyncio.wait({self._running}, timeout=LIMIT_SECONDS)
        if not self._running.done():
            logger.warning(
                "A health check has no answer", extra={"check": self.name, "seconds": LIMIT_SECONDS}
            )
            return False
        if error := self._running.exception():
            logger.warning("A health check failed", extra={"check": self.name, "error": repr(error)})
            return False
        return self._running.result()


class Probes:
    """All questions of ``/health``."""

    def __init__(self, config: Config, airflow: AirflowClient) -> None:
        self.heartbeats: dict[str, datetime] = {}
        self._threads = CapacityLimiter(2)
        redis, rabbitmq = config.redis.url, config.rabbitmq.url
        self.database = Probe("database", self._read_heartbeats)
        self.api_server = Probe("airflow api-server", airflow.is_reachable)
        self.redis = None if redis is None else Probe("redis", lambda: _redis_answers(redis))
        self.rabbitmq = (
            None if rabbitmq is None else Probe("rabbitmq", lambda: self._rabbitmq_answers(rabbitmq))
        )

    def process_is_alive(self, name: str, now: datetime) -> bool:
        """Whether a process of Airflow gave a sign of life of late, as the database last knew."""
        return name in self.heartbeats and now - self.heartbeats[name] < timedelta(
            seconds=heartbeat_thresholds()[name]
        )

    async def _read_heartbeats(self) -> bool:
        def read() -> dict[str, datetime]:
            with session_factory()() as session:
                return read_heartbeats(session)

        # Threads of their own: those for requests may all be waiting for the same database.
        self.heartbeats = await to_thread.run_sync(read, limiter=self._threads)
        return True

    async def _rabbitmq_answers(self, url: str) -> bool:
        return await to_thread.run_sync(_connect_to_rabbitmq, url, limiter=self._threads)


def get_probes(request: Request) -> Probes:
    """Return the questions, which live as long as the app."""
    probes: Probes = request.app.state.probes
    return probes


ProbesDep = Annotated[Probes, Depends(get_probes)]


async def _redis_answers(url: str) -> bool:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # Without the three tries that are redis-py's default.
    once = Retry(NoBackoff(), 0)
    async with Redis.from_url(
        url, socket_timeout=LIMIT_SECONDS, socket_connect_timeout=LIMIT_SECONDS, retry=once
    ) as client:
        return bool(await client.ping())


def _connect_to_rabbitmq(url: str) -> bool:
    from kombu.connection import Connection

    with Connection(url, connect_timeout=LIMIT_SECONDS) as connection:  # type: ignore[no-untyped-call]
        # Not connection.connect(), which waits for two seconds and tries again.
        transport = connection.transport
        opened = transport.establish_connection()
        transport.close_connection(opened)
    return True
