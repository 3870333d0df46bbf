from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing import eventually

from cognitionos_provider.llm.connection import Limits
from cognitionos_provider.llm.gate import Gate
from cognitionos_provider.llm.limits import Gates, NoRoomError, Permit

KEY = "openai/gpt-4"
NO_LIMIT, ONE = Limits(), Limits(max_in_flight=1)


def enter(
    gates: Gates, limits: Limits = NO_LIMIT, tokens: int = 0, group: str = "run", timeout: float = 60
) -> AbstractAsyncContextManager[Permit]:
    return gates.enter(KEY, limits, tokens=tokens, group=group, timeout=timeout)


def nothing_is_held(gates: Gates) -> bool:
    gate = gates._gates.get(KEY) or Gate()
    return (gate.in_flight, gate._taken, len(gate._groups)) == (0, False, 0)


class Calls:
    """Start calls that stay in flight until they are told to end, and see which are."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.sent: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def start(self, *names: str, **arguments: Any) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name, arguments))
            await asyncio.sleep(0)

    async def _call(self, name: str, arguments: dict[str, Any]) -> None:
        async with enter(self.gates, **arguments):
            self.sent.append(name)
            await self._ends[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await asyncio.wait([self.tasks[name]])
        await turns()

    async def end_all(self) -> None:
        for end in self._ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def calls(gates: Gates) -> AsyncIterator[Calls]:
    calls = Calls(gates)
    yield calls
    await calls.end_all()
    if calls.tasks:
        assert nothing_is_held(gates)


async def test_no_more_calls_are_in_flight_than_allowed(calls: Calls) -> None:
    await calls.start("a", "b", "c", "d", limits=Limits(max_in_flight=2))
    await turns()
    assert calls.sent == ["a", "b"]
    await calls.end("a")
    assert calls.sent == ["a", "b", "c"]


async def test_without_a_limit_a_process_has_one_all_the_same() -> None:
    calls = Calls(Gates(default_in_flight=2))
    await calls.start("a", "b", "c")
    assert calls.sent == ["a", "b"]
    await calls.end_all()
    assert calls.sent == ["a", "b", "c"]


async def test_each_key_has_places_of_its_own(gates: Gates) -> None:
    async with (
        gates.enter("a", ONE, tokens=0, group="run", timeout=0),
        gates.enter("b", ONE, tokens=0, group="run", timeout=0),
    ):
        pass


async def test_a_run_with_one_call_does_not_wait_behind_anothers_many(calls: Calls) -> None:
    many = [f"a{number}" for number in range(100)]
    await calls.start(*many, limits=ONE, group="a")
    await calls.start("b", limits=ONE, group="b")
    await calls.end("a0", "a1")
    assert calls.sent == ["a0", "a1", "b"]


async def test_runs_take_turns_and_calls_of_a_run_keep_their_order(calls: Calls) -> None:
    for group, number in (("a", 4), ("b", 3), ("c", 1)):
        await calls.start(*(f"{group}{n}" for n in range(number)), limits=ONE, group=group)
    expected = ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "b2"]
    for name in expected:
        await calls.end(name)
    assert calls.sent == expected


class Jumps:
    """A clock that jumps ahead where somebody would sleep."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def test_calls_are_sent_at_an_even_pace_and_runs_take_turns_there_too() -> None:
    at = Jumps()
    gates = Gates(clock=at.clock, sleep=at.sleep)
    limits = Limits(requests_per_minute=60)
    sent: list[tuple[str, float]] = []

    async def call(group: str) -> None:
        async with enter(gates, limits, group=group, timeout=1_000):
            sent.append((group, at.now))
        if len(sent) == 20:
            tasks.append(asyncio.create_task(call("single")))

    tasks = [asyncio.create_task(call("many")) for _ in range(100)]
    await eventually(lambda: len(sent) == 101)
    assert [moment for _, moment in sent] == pytest.approx([0] * 6 + list(range(1, 96)))
    assert [group for group, _ in sent].index("single") <= 21


async def test_a_call_that_would_wait_too_long_for_its_slot_is_told_at_once(gates: Gates) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=1_000_000)
    async with enter(gates, limits, tokens=5, timeout=0):
        pass
    for _ in range(3):  # each finds the same: none has taken a slot
        begun = time.monotonic()
        with pytest.raises(NoRoomError, match="requests_per_minute of 1") as caught:
            async with enter(gates, limits, tokens=5, timeout=30):
                pass
        assert time.monotonic() - begun < 1
        assert caught.value.wait == pytest.approx(60, abs=2)
        assert caught.value.limit == "requests_per_minute of 1"
    assert nothing_is_held(gates)


async def test_so_is_one_that_comes_while_another_waits_longer_for_its_own(
    gates: Gates, calls: Calls
) -> None:
    limits = Limits(tokens_per_minute=600)
    await calls.start("a", limits=limits, tokens=120)
    await calls.start("b", limits=limits, tokens=120)
    await turns()
    assert calls.sent == ["a"]
    with pytest.raises(NoRoomError, match="tokens_per_minute of 600") as caught:
        async with enter(gates, limits, tokens=60, group="other", timeout=8):
            pass
    assert caught.value.wait == pytest.approx(12, abs=2)
    calls.tasks["b"].cancel()
    await turns()
    with pytest.raises(NoRoomError) as caught:
        async with enter(gates, limits, tokens=1, group="other", timeout=1):
            pass
    assert caught.value.wait == pytest.approx(6.1, abs=2)


async def test_a_call_that_finds_no_place_in_time_is_told_which_limit_it_was(gates: Gates) -> None:
    async with enter(gates, Limits(max_in_flight=1)):
        begun = time.monotonic()
        waits = [asyncio.create_task(enter(gates, ONE, timeout=0.05).__aenter__()) for _ in range(3)]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert 0.04 < time.monotonic() - begun < 1
    assert [(error.limit, error.wait) for error in outcomes] == [("max_in_flight of 1", 0.05)] * 3
    assert nothing_is_held(gates)


async def test_a_call_that_is_cancelled_in_the_queue_leaves_its_place_to_the_next(calls: Calls) -> None:
    await calls.start("a", "b", "c", "d", limits=ONE)
    await calls.start("e", limits=ONE, group="other")
    for name in "ce":
        calls.tasks[name].cancel()
        await turns()
    assert sum(map(len, calls.gates._gates[KEY]._groups.values())) == 1  # d waits for the turn, which b has
    calls.tasks["b"].cancel()
    await turns()
    await calls.end("a")
    assert calls.sent == ["a", "d"]


async def test_a_call_that_is_cancelled_as_it_gets_its_turn_passes_it_on(calls: Calls) -> None:
    await calls.start("a", "b", "c", limits=ONE)
    await calls.start("d", limits=ONE, group="other")
    calls.tasks["b"].cancel()  # b passes the turn on to c in the next step of the loop
    await asyncio.sleep(0)
    calls.tasks["c"].cancel()
    await calls.end("a")
    assert calls.sent == ["a", "d"]


async def test_a_call_that_is_cancelled_before_its_slot_comes_gives_it_back(
    gates: Gates, calls: Calls
) -> None:
    limits = Limits(requests_per_minute=60, tokens_per_minute=600)
    async with enter(gates, limits, tokens=600):
        pass
    due = list(gates._gates[KEY].rates.due)
    await calls.start("a", limits=limits, tokens=60)
    await turns()
    assert gates._gates[KEY].rates.due[1] > due[1]
    calls.tasks["a"].cancel()
    await turns()
    assert calls.sent == []
    assert gates._gates[KEY].rates.due[1] == pytest.approx(due[1])


async def test_a_call_that_is_cancelled_or_fails_in_flight_leaves(gates: Gates, calls: Calls) -> None:
    await calls.start("a", limits=ONE)
    calls.tasks["a"].cancel()
    await turns()
    with pytest.raises(KeyError):
        async with enter(gates, ONE, timeout=0):
            raise KeyError
    async with enter(gates, ONE, timeout=0):
        pass


async def test_what_a_call_really_took_counts(gates: Gates) -> None:
    limits = Limits(tokens_per_minute=600)
    async with enter(gates, limits, tokens=600) as permit:
        permit.used(300)
        permit.used(60)  # the last word counts
    async with enter(gates, limits, tokens=1, timeout=1) as permit:
        permit.used(601)
    with pytest.raises(NoRoomError) as caught:
        async with enter(gates, limits, tokens=1, timeout=1):
            pass
    assert caught.value.wait == pytest.approx(60.2, abs=2)


async def test_keys_without_end_take_no_memory_without_end(gates: Gates) -> None:
    async with enter(gates):
        for number in range(10_000):
            async with gates.enter(f"openai/{number}", Limits(), tokens=0, group="run", timeout=0):
                pass
        assert len(gates._gates) <= 4_096
        assert gates._gates[KEY].in_flight == 1
    assert nothing_is_held(gates)


async def test_a_call_without_limits_costs_next_to_nothing(gates: Gates) -> None:
    rounds = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(1_000):
            async with enter(gates):
                pass
        rounds.append((time.perf_counter() - begun) / 1_000)
    assert min(rounds) < 30e-6


@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 3), many=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_whoever_comes_goes_or_is_cancelled_nothing_is_left_and_no_limit_broken(
    seed: int, capacity: int, many: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    limits = Limits(max_in_flight=capacity, requests_per_minute=chance.choice([None, 600_000]))

    async def run() -> None:
        gates = Gates()
        inside = 0

        async def call() -> None:
            nonlocal inside
            async with enter(gates, limits, group=chance.choice("abc"), timeout=chance.choice([0.001, 10])):
                inside += 1
                assert inside <= capacity
                try:
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = []
        for _ in range(many):
            tasks.append(asyncio.create_task(call()))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, NoRoomError | asyncio.CancelledError), outcome
        assert nothing_is_held(gates)

    asyncio.run(run())
