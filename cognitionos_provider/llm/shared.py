"""State that every triggerer and worker sees, kept in Redis where there is one.

Breakers, limits, budgets and the cache work without it, each for its own process. A Redis that fails or hangs is
left alone for a while, with one warning: it must never fail a step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

__all__ = ["SharedState", "SharedStateDown", "background", "to_the_end"]

_log = logging.getLogger(__name__)

# Enough for 10,000 scripts a second; a pool that runs dry would look like a Redis that is down.
_CONNECTIONS = 32

_T = TypeVar("_T")
_running: set[asyncio.Task[Any]] = set()


class SharedStateDown(Exception):  # noqa: N818 - a state of affairs, handled where it is raised
    """Redis does not answer now: go on with what this process knows."""


class SharedState:
    """Runs scripts on a Redis, for one event loop.

    Each script is one atomic step on the server. ``timeout_seconds`` bounds a step; after a failure Redis is not
    asked again for ``retry_seconds``, and then by one caller, whose success brings the others back.
    ``prefix`` starts every key.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "cognitionos:",
        timeout_seconds: float = 0.5,
        retry_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prefix = prefix
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._redis: Redis | None = None
        self._scripts: dict[str, AsyncScript] = {}
        self._down_until: float | None = None
        self._places = asyncio.Semaphore(_CONNECTIONS)

    def connect(self) -> None:
        """Load the client library, which takes a while: run it in a thread. Opens no connection yet."""
        from redis.asyncio import Redis

        if self._redis is None:
            self._redis = Redis.from_url(
                self._url,
                socket_timeout=self._timeout_seconds,
                socket_connect_timeout=self._timeout_seconds,
                health_check_interval=0,
                max_connections=_CONNECTIONS + 1,
            )

    @property
    def down(self) -> bool:
        """Whether Redis failed a moment ago and is not asked now."""
        return self._redis is None or (self._down_until is not None and self._clock() < self._down_until)

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float] = ()) -> Any:
        """Run a Lua script; ``keys`` get the prefix. Raises :class:`SharedStateDown`."""
        if self.down:
            raise SharedStateDown
        async with self._places:
            # It may have failed while this one waited for its place.
            if self._redis is None or self.down:
                raise SharedStateDown
            if self._down_until is not None:
                # This one tries; the others must not wait for the timeout, too.
                self._down_until = self._clock() + self._retry_seconds
            prepared = self._scripts.get(script)
            if prepared is None:
                prepared = self._scripts[script] = self._redis.register_script(script)
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await prepared(keys=[self.prefix + key for key in keys], args=list(arguments))
            except Exception as error:  # noqa: BLE001 - whatever it is, Redis did not do it
                self._fell(error)
                raise SharedStateDown from None
        if self._down_until is not None:
            self._down_until = None
            _log.info("Redis answers again: breakers, limits and budgets are shared")
        return answer

    def _fell(self, error: Exception) -> None:
        if self._down_until is None:
            # The error may quote the address, and with it the password.
            _log.warning(
                "Redis does not answer (%s): breakers, limits and budgets hold for this process alone until it does",
                type(error).__name__,
            )
        self._down_until = self._clock() + self._retry_seconds

    async def aclose(self) -> None:
        """Close the connections."""
        redis, self._redis = self._redis, None
        self._scripts.clear()
        if redis is not None:
            await redis.aclose()


def background(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Start work that nobody may wait for. asyncio keeps only weak references to tasks: this one is held."""
    task = asyncio.create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def to_the_end(
    work: Coroutine[Any, Any, _T], undo: Callable[[_T], Awaitable[object]] | None = None
) -> _T:
    """Wait for work that goes on when this caller is cancelled; ``undo`` then gets what it came to."""
    task = background(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if undo is not None:
            background(_undone(task, undo))
        raise


async def _undone(task: asyncio.Task[_T], undo: Callable[[_T], Awaitable[object]]) -> None:
    await undo(await task)
