"""The record of the calls that the simulator received, and what a provider would have billed for them."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Call", "CallLog"]

_KEPT = 100_000


@dataclass(slots=True)
class Call:
    """One call. Times are seconds of the monotonic clock. ``finished`` and ``status`` are None in flight."""

    seq: int
    provider: str
    path: str
    received: float
    generation: int
    fingerprint: str = ""
    """A hash of the path and of the request's bytes: equal for two calls that asked the same."""
    client_id: str = ""
    """The caller's own id of the call (header ``X-Client-Request-Id``)."""
    model: str | None = None
    question: str = ""
    """The start of the last user message."""
    rule: int | None = None
    status: int | str | None = None
    """The HTTP status of the answer, or "dropped"."""
    disconnected: bool = False
    """Whether the client was gone before the answer was complete."""
    billed: dict[str, int] | None = None
    """input_tokens and output_tokens, also if the client has left; None if no answer was produced."""
    finished: float | None = None


class CallLog:
    """The last 100,000 calls and the totals over all since the last ``clear``.

    Written by the server's loop alone; other threads may read and clear it.
    """

    def __init__(self) -> None:
        self._seq = 0
        self._generation = 0
        self._in_flight = 0
        self.clear()

    def clear(self) -> int:
        """Forget all calls, those in flight too, and return how many there were."""
        forgotten = len(self._calls) if self._generation else 0
        self._generation += 1
        self._calls: deque[Call] = deque(maxlen=_KEPT)
        self._received = 0
        self._disconnected = 0
        self._max_in_flight = self._in_flight
        self._by_provider: Counter[str] = Counter()
        self._by_model: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()
        self._billed: Counter[str] = Counter()
        return forgotten

    def open(self, provider: str, path: str) -> Call:
        """Record a call that has just been received."""
        self._seq += 1
        call = Call(self._seq, provider, path, time.monotonic(), self._generation)
        self._calls.append(call)
        self._received += 1
        self._by_provider[provider] += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        return call

    def bill(self, call: Call, input_tokens: int, output_tokens: int) -> None:
        """Note that an answer was produced, whoever still waits for it."""
        call.billed = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        if call.generation == self._generation:
            self._billed["calls"] += 1
            self._billed["input_tokens"] += input_tokens
            self._billed["output_tokens"] += output_tokens

    def close(self, call: Call, status: int | str, *, disconnected: bool = False) -> None:
        """Note how a call ended. Called before the last byte leaves: who has the answer finds it here.

        A call is closed once: what comes after is ignored.
        """
        if call.finished is not None:
            return
        call.status, call.disconnected = status, disconnected
        call.finished = time.monotonic()
        self._in_flight -= 1
        if call.generation == self._generation:
            self._disconnected += disconnected
            self._by_status[str(status)] += 1
            if call.model is not None:
                self._by_model[call.model] += 1

    def as_json(self) -> list[dict[str, Any]]:
        """Return the calls in the order received."""
        return [{k: v for k, v in asdict(call).items() if k != "generation"} for call in list(self._calls)]

    def stats(self) -> dict[str, Any]:
        """Return the totals. ``by_model`` and ``by_status`` count finished calls."""
        return {
            "calls": self._received,
            "in_flight": self._in_flight,
            "max_in_flight": self._max_in_flight,
            "disconnected": self._disconnected,
            "by_provider": dict(self._by_provider),
            "by_model": dict(self._by_model),
            "by_status": dict(self._by_status),
            "billed": {field: self._billed[field] for field in ("calls", "input_tokens", "output_tokens")},
        }
