"""What a call costs on this side: time and processor time per call to a server that answers at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack

from pydantic import BaseModel

from benchmarks.contenders import Entry
from benchmarks.contenders.contender import Route
from benchmarks.processes import Answers, BenchError, Start, simulator

__all__ = ["CALLS", "CALLS_PER_ROUND", "WARM_UP_CALLS", "Overhead", "measure_overhead"]

CALLS = 2500
CALLS_PER_ROUND = 25
WARM_UP_CALLS = 200


class Overhead(BaseModel):
    """Seconds per call, one call after the other.

    ``processor`` is the processor time of the contender's process: it also holds what is done behind a call.
    ``connections`` counts those opened meanwhile, 0 if the first one was kept.
    """

    contender: str
    baseline: bool
    calls: int
    median: float
    p99: float
    processor: float
    connections: int


async def measure_overhead(entries: Sequence[Entry], start: Start) -> list[Overhead]:
    """Ask each contender, in its own process, a few calls at a time in turn, so that all meet the same machine."""
    entries = [entry for entry in entries if entry.overhead_and_memory]
    rounds: list[list[Answers]] = [[] for _ in entries]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(simulator())
        workers = [await stack.enter_async_context(start(entry)) for entry in entries]
        for worker in workers:
            await worker.open(Route(primary=server.openai_url, fallback=server.anthropic_url))
        # Not before all are loaded, or an idle connection would be closed meanwhile.
        for worker in workers:
            await worker.ask(WARM_UP_CALLS)
        for number in range(CALLS // CALLS_PER_ROUND):
            # Each has each place in turn: nobody is always the one behind the slowest.
            for place in range(len(workers)):
                which = (number + place) % len(workers)
                rounds[which].append(await workers[which].ask(CALLS_PER_ROUND))
    return [_overhead(entry, answers) for entry, answers in zip(entries, rounds, strict=True)]


def _overhead(entry: Entry, rounds: Sequence[Answers]) -> Overhead:
    if failed := [answers.failed for answers in rounds if answers.failed]:
        raise BenchError(f"{entry.name} failed at calls to a server that has no fault: {failed[0]}")
    seconds = [each for answers in rounds for each in answers.seconds]
    return Overhead(
        contender=entry.name,
        baseline=entry.baseline,
        calls=len(seconds),
        median=statistics.median(seconds),
        p99=statistics.quantiles(seconds, n=100)[-1],
        processor=sum(answers.processor_seconds for answers in rounds) / len(seconds),
        connections=sum(sum(answers.connections.values()) for answers in rounds),
    )
