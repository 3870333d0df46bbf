"""How much memory a thousand calls in flight take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import psutil
from pydantic import BaseModel

from benchmarks.contenders import Entry
from benchmarks.contenders.contender import Route
from benchmarks.processes import Start, simulator

__all__ = ["IN_FLIGHT", "LATENCY", "Memory", "measure_memory"]

IN_FLIGHT = 1000
LATENCY = 10.0
"""Seconds that each answer takes: enough for the last call to be sent before the first is answered."""

_WARM_UP_CALLS = 50
_SAMPLE_SECONDS = 0.02


class Memory(BaseModel):
    """Resident memory of a contender's process in bytes, before the calls and at most during them.

    ``in_flight`` is how many calls the server had at once, at most; ``took`` is in seconds.
    """

    contender: str
    before: int
    peak: int
    in_flight: int
    answered: int
    took: float


async def measure_memory(entries: Sequence[Entry], start: Start) -> list[Memory]:
    """Make all calls at once, one contender after the other, each in a fresh process."""
    return [await _measure(entry, start) for entry in entries if entry.overhead_and_memory]


async def _measure(entry: Entry, start: Start) -> Memory:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(simulator())
        worker = await stack.enter_async_context(start(entry))
        await worker.open(Route(primary=server.openai_url, fallback=server.anthropic_url))
        await worker.ask(_WARM_UP_CALLS)
        await server.start_over({"latency": LATENCY})
        process = psutil.Process(worker.pid)
        before = peak = process.memory_info().rss
        asking = asyncio.create_task(worker.ask(IN_FLIGHT, at_once=IN_FLIGHT, within=60))
        while not asking.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(_SAMPLE_SECONDS)
        answers = await asking
        return Memory(
            contender=entry.name,
            before=before,
            peak=peak,
            in_flight=await server.max_in_flight(),
            answered=sum(answers.answered.values()),
            took=answers.took,
        )
