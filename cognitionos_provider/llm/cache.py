"""Answers kept across runs, for requests that ask for it and have temperature 0."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from cognitionos_provider.llm.shared import SharedState, SharedStateDown

__all__ = ["ResponseCache"]

_GET = "return redis.call('GET', KEYS[1])"
_SET = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"

# A longer one comes from a slip, and Redis refuses those that are beyond its own bound.
_LONGEST_SECONDS = 365 * 24 * 3600.0


class ResponseCache:
    """Keeps answers in Redis, or in this process while there is none or it is down. Never fails a call.

    In this process it holds the ``max_entries`` that were used last. A value of more than ``max_bytes`` (in UTF-8)
    is not kept anywhere. ``clock`` gives seconds; Redis has a clock of its own.
    """

    def __init__(
        self,
        *,
        shared: SharedState | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_entries: int = 2000,
        max_bytes: int = 1 << 20,
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def get(self, key: str) -> str | None:
        """Find what was put under ``key`` and has not expired; ``key`` is a hash of all that shapes the answer."""
        if self._shared is not None:
            try:
                answer: bytes | str | None = await self._shared.run(_GET, [_name(key)])
            except SharedStateDown:
                pass
            else:
                if answer is not None:
                    return answer.decode() if isinstance(answer, bytes) else answer
        # Also where Redis has nothing: it may have been down when the answer was put.
        expires, value = self._kept.get(key, (0.0, None))
        if value is None:
            return None
        if expires <= self._clock():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    async def put(self, key: str, value: str, ttl_seconds: float) -> None:
        """Keep an answer for ``ttl_seconds``, at most a year; none at all for less than a millisecond."""
        milliseconds = int(min(ttl_seconds, _LONGEST_SECONDS) * 1000)
        if milliseconds < 1 or not self._fits(value):
            return
        if self._shared is not None:
            try:
                await self._shared.run(_SET, [_name(key)], [value, milliseconds])
            except SharedStateDown:
                pass
            else:
                self._kept.pop(key, None)
                return
        self._kept[key] = (self._clock() + milliseconds / 1000, value)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def _fits(self, value: str) -> bool:
        if len(value) > self._max_bytes:
            return False
        try:
            return len(value.encode()) <= self._max_bytes
        except UnicodeEncodeError:  # half of a surrogate pair, which can't be sent to Redis
            return False


def _name(key: str) -> str:
    return f"cache/{key}"
