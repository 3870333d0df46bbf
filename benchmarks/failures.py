"""What calls meet while the primary has a fault: how long an answer takes, and what the primary still gets."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from benchmarks.contenders import Entry
from benchmarks.contenders.contender import Route
from benchmarks.processes import Answers, Simulator, Start, Worker, refusing_port, simulator

__all__ = [
    "NO_PRIMARY",
    "RATE_LIMITED",
    "REFUSED",
    "SETTLED_CALLS",
    "SILENT",
    "Scenario",
    "Trial",
    "measure_failures",
]

SETTLED_CALLS = 10
_WARM_UP_CALLS = 20


@dataclass(frozen=True)
class Scenario:
    """What is wrong with the primary, and how it is called meanwhile.

    The primary is a simulator with these rules, a port that refuses connections, or none. No call begins after
    ``within`` seconds. ``waits`` says that nearly all of the time is waiting, for whatever contender.
    """

    name: str
    primary: Literal["simulator", "refusing port"] | None
    rules: Sequence[Mapping[str, Any]] = ()
    calls: int = 100
    at_once: int = 1
    within: float = 110.0
    attempt_seconds: float | None = None
    waits: bool = False


NO_PRIMARY = Scenario("no primary", primary=None)
REFUSED = Scenario("refused", primary="refusing port")
SILENT = Scenario(
    "silent",
    primary="simulator",
    rules=({"match": {"provider": "openai"}, "latency": 3600},),
    attempt_seconds=1.0,
    waits=True,
)
RATE_LIMITED = Scenario(
    "rate-limited",
    primary="simulator",
    rules=(
        {"match": {"provider": "openai"}, "status": 429, "retry_after": 2},
        {"match": {"provider": "anthropic"}, "latency": 0.25},
    ),
    calls=200,
    at_once=10,
    within=170.0,
)
_SCENARIOS = (NO_PRIMARY, REFUSED, SILENT, RATE_LIMITED)


class Trial(BaseModel):
    """A scenario, tried on a contender. Times in seconds.

    ``calls`` is how many ended, fewer than the scenario has if the time was up; ``settled`` is the median of the
    last ten. ``to_primary`` is how many calls the primary received, or how often the dead port was tried.
    """

    contender: str
    scenario: str
    calls: int
    answered: int
    failed: dict[str, int]
    first: float
    settled: float
    took: float
    to_primary: int


@dataclass
class _Prepared:
    """A contender in a fresh process, with a simulator of its own and a dead port at hand."""

    scenario: Scenario
    worker: Worker
    server: Simulator
    dead_port: int

    async def warm_up(self) -> None:
        """Load and call everything once while nothing is wrong, so that a trial tells of faults alone."""
        for primary in (self.server.openai_url, None):
            await self.worker.open(Route(primary=primary, fallback=self.server.anthropic_url))
            await self.worker.ask(_WARM_UP_CALLS)

    async def run(self) -> Trial:
        """Try the scenario with a client made for it."""
        scenario = self.scenario
        primaries = {
            None: None,
            "refusing port": f"http://127.0.0.1:{self.dead_port}/v1",
            "simulator": self.server.openai_url,
        }
        await self.server.start_over(*scenario.rules)
        await self.worker.open(
            Route(
                primary=primaries[scenario.primary],
                fallback=self.server.anthropic_url,
                attempt_seconds=scenario.attempt_seconds,
            )
        )
        answers = await self.worker.ask(scenario.calls, at_once=scenario.at_once, within=scenario.within)
        tried = answers.connections.get(self.dead_port, 0)
        return _trial(self.worker.entry, scenario, answers, tried or await self.server.calls_to("openai"))


async def measure_failures(entries: Sequence[Entry], start: Start) -> list[Trial]:
    """Try all scenarios on all contenders that fall back.

    Trials told in milliseconds have the machine for themselves. The others, told in seconds, are nearly all
    waiting and go on beside each other, which leaves the processor idle still.
    """
    pairs = [(entry, scenario) for scenario in _SCENARIOS for entry in entries if entry.falls_back]
    waiting = [(e, s) for e, s in pairs if s.waits or (e.retries_first and s.primary is not None)]
    alone = [pair for pair in pairs if pair not in waiting]
    trials = [await _try_alone(*pair, start) for pair in alone if pair[1] is not RATE_LIMITED]
    async with AsyncExitStack() as stack:
        prepared = [await _prepare(*pair, start, stack) for pair in waiting]
        async with asyncio.TaskGroup() as group:
            for each in prepared:
                group.create_task(each.warm_up())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in prepared]
            trials += [await _try_alone(*pair, start) for pair in alone if pair[1] is RATE_LIMITED]
        trials += [task.result() for task in tasks]
    order = [(scenario.name, entry.name) for entry, scenario in pairs]
    return sorted(trials, key=lambda trial: order.index((trial.scenario, trial.contender)))


async def _try_alone(entry: Entry, scenario: Scenario, start: Start) -> Trial:
    async with AsyncExitStack() as stack:
        prepared = await _prepare(entry, scenario, start, stack)
        await prepared.warm_up()
        return await prepared.run()


async def _prepare(entry: Entry, scenario: Scenario, start: Start, stack: AsyncExitStack) -> _Prepared:
    return _Prepared(
        scenario,
        await stack.enter_async_context(start(entry)),
        await stack.enter_async_context(simulator()),
        stack.enter_context(refusing_port()),
    )


def _trial(entry: Entry, scenario: Scenario, answers: Answers, to_primary: int) -> Trial:
    return Trial(
        contender=entry.name,
        scenario=scenario.name,
        calls=len(answers.seconds),
        answered=sum(answers.answered.values()),
        failed=answers.failed,
        first=answers.seconds[0],
        settled=statistics.median(answers.seconds[-SETTLED_CALLS:]),
        took=answers.took,
        to_primary=to_primary,
    )
