from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from services import redis_url

from cognitionos_provider.llm.breaker import Admission, Breakers, BreakerSettings
from cognitionos_provider.llm.circuit import Circuit
from cognitionos_provider.llm.shared import SharedState

KEY = "openai/gpt-4"
ALLOWED, PROBE = Admission(allowed=True), Admission(allowed=True, probe=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock=clock)


async def fail(breakers: Breakers, times: int, key: str = KEY) -> float:
    seconds = 0.0
    for _ in range(times):
        seconds = await breakers.failed(key, probe=False)
    return seconds


async def succeed(breakers: Breakers, times: int) -> None:
    for _ in range(times):
        await breakers.succeeded(KEY, probe=False)


async def test_it_opens_after_so_many_failures_in_a_row(breakers: Breakers) -> None:
    assert await fail(breakers, 4) == 0.0
    assert await breakers.admit(KEY) == ALLOWED
    assert await fail(breakers, 1) == 5.0
    assert await breakers.admit(KEY) == Admission(allowed=False, wait=5.0)
    assert breakers.state(KEY) == "open"


async def test_a_success_starts_the_row_anew(breakers: Breakers) -> None:
    await fail(breakers, 4)
    await breakers.succeeded(KEY, probe=False)
    assert await fail(breakers, 4) == 0.0
    assert await fail(breakers, 1) == 5.0


async def test_each_key_has_a_breaker_of_its_own(breakers: Breakers) -> None:
    await fail(breakers, 5)
    assert await breakers.admit("openai/gpt-5") == ALLOWED


async def test_it_opens_when_half_of_the_calls_of_the_last_minute_failed(breakers: Breakers) -> None:
    for _ in range(9):
        await succeed(breakers, 1)
        assert await fail(breakers, 1) == 0.0
    await succeed(breakers, 1)
    assert await fail(breakers, 1) == 5.0


async def test_calls_of_more_than_a_minute_ago_do_not_count(breakers: Breakers, clock: Clock) -> None:
    await succeed(breakers, 10)
    await fail(breakers, 4)
    clock.now += 61
    await succeed(breakers, 1)
    await fail(breakers, 4)
    await succeed(breakers, 1)
    assert await fail(breakers, 4) == 0.0  # 8 of 10 calls, where 20 are needed


async def test_a_failure_that_is_bad_enough_opens_it_at_once(breakers: Breakers) -> None:
    assert await breakers.failed(KEY, probe=False, at_once=True, cooldown=3_600) == 3_600
    assert breakers.state(KEY) == "open"


async def test_each_cooldown_takes_twice_the_one_before_until_a_success(
    breakers: Breakers, clock: Clock
) -> None:
    cooldowns = [await fail(breakers, 5)]
    for _ in range(6):
        clock.now += cooldowns[-1]
        assert breakers.state(KEY) == "half_open"
        assert await breakers.admit(KEY) == PROBE
        cooldowns.append(await breakers.failed(KEY, probe=True))
    assert cooldowns == [5, 10, 20, 40, 80, 120, 120]
    clock.now += 120
    assert await breakers.admit(KEY) == PROBE
    await breakers.succeeded(KEY, probe=True)
    assert breakers.state(KEY) == "closed"
    assert await fail(breakers, 4) == 0.0
    assert await fail(breakers, 1) == 5.0


async def test_a_provider_may_ask_for_a_longer_cooldown_than_the_longest(breakers: Breakers) -> None:
    assert await breakers.failed(KEY, probe=False, at_once=True, retry_after=600.0, cooldown=3.0) == 600.0
    assert await breakers.failed("other", probe=False, at_once=True, retry_after=1.0, cooldown=2.0) == 5.0


async def test_it_opens_and_closes_for_ever(breakers: Breakers, clock: Clock) -> None:
    await fail(breakers, 5)
    for _ in range(2_000):  # 2.0 ** 2000 would overflow
        clock.now += 120
        assert (await breakers.admit(KEY)).probe
        await breakers.failed(KEY, probe=True)
    assert (await breakers.admit(KEY)).wait == 120


async def test_a_single_call_is_the_probe_and_the_others_ask_again_soon(
    breakers: Breakers, clock: Clock
) -> None:
    clock.now += await fail(breakers, 5)
    assert await breakers.admit(KEY) == PROBE
    assert await breakers.admit(KEY) == Admission(allowed=False, wait=0.25)
    clock.now += 59.9
    assert (await breakers.admit(KEY)).wait == pytest.approx(0.1)


async def test_a_probe_that_never_reports_is_given_up(breakers: Breakers, clock: Clock) -> None:
    clock.now += await fail(breakers, 5)
    assert await breakers.admit(KEY, probe_seconds=7) == PROBE
    clock.now += 6.9
    assert not (await breakers.admit(KEY)).allowed
    clock.now += 0.1
    assert await breakers.admit(KEY) == PROBE


async def test_a_probe_that_tells_nothing_makes_room_for_another(breakers: Breakers, clock: Clock) -> None:
    clock.now += await fail(breakers, 5)
    assert await breakers.admit(KEY) == PROBE
    await breakers.left(KEY, probe=False)
    assert not (await breakers.admit(KEY)).allowed
    await breakers.left(KEY, probe=True)
    assert await breakers.admit(KEY) == PROBE


async def test_failures_that_come_late_do_not_make_the_cooldown_longer(
    breakers: Breakers, clock: Clock
) -> None:
    await fail(breakers, 5)
    clock.now += 2
    assert await fail(breakers, 7) == 3.0
    assert await breakers.failed(KEY, probe=False, retry_after=2.0) == 3.0
    assert await breakers.failed(KEY, probe=False, at_once=True, cooldown=900.0) == 3.0
    assert await breakers.failed(KEY, probe=False, retry_after=30.0) == 30.0
    clock.now += 30
    assert await breakers.admit(KEY) == PROBE
    assert await breakers.failed(KEY, probe=True) == 10.0


async def test_a_success_that_comes_late_does_not_close_it(breakers: Breakers, clock: Clock) -> None:
    await fail(breakers, 5)
    await succeed(breakers, 1)
    assert breakers.state(KEY) == "open"
    clock.now += 5
    await succeed(breakers, 1)
    assert breakers.state(KEY) == "half_open"


async def test_keys_without_end_take_no_memory_without_end_and_open_breakers_stay(breakers: Breakers) -> None:
    await fail(breakers, 5)
    for number in range(10_000):
        await fail(breakers, 1, key=f"openai/{number}")
    assert breakers.state(KEY) == "open"
    assert len(breakers._circuits) <= 4_096


async def test_a_call_without_failures_costs_next_to_nothing(breakers: Breakers) -> None:
    rounds = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(1_000):
            await breakers.succeeded(KEY, probe=(await breakers.admit(KEY)).probe)
        rounds.append((time.perf_counter() - begun) / 1_000)
    assert min(rounds) < 20e-6


class Model:
    """The rules once more, as plainly as can be: every call of a minute is remembered."""

    def __init__(self, rules: BreakerSettings) -> None:
        self.rules, self.log, self.opened = rules, [], 0
        self.ends: float | None = None
        self.probe_ends: float | None = None

    def admit(self, now: float) -> str:
        if self.ends is None:
            return "call"
        if now < self.ends or (self.probe_ends is not None and now < self.probe_ends):
            return "no"
        self.probe_ends = now + self.rules.probe_seconds
        return "probe"

    def ended(self, now: float, *, probe: bool, failed: bool, at_once: bool, asked: float) -> None:
        probe = probe and self.probe_ends is not None
        if self.ends is not None and not probe:
            if failed and asked:
                self.ends = max(self.ends, now + asked)
        elif not failed and probe and self.ends is not None:
            self.__init__(self.rules)
        else:
            self.log.append((now, failed))
            row = [failed for _, failed in self.log[-self.rules.consecutive :]]
            recent = [failed for at, failed in self.log if at > now - self.rules.window_seconds]
            often = len(recent) >= self.rules.window_calls and sum(recent) >= self.rules.share * len(recent)
            in_a_row = len(row) == self.rules.consecutive and all(row)
            if failed and (probe or at_once or in_a_row or often):
                cooldown = self.rules.cooldown_seconds * 2**self.opened
                self.opened += 1
                self.ends = now + max(asked, min(self.rules.max_cooldown_seconds, cooldown))
                self.probe_ends = None

    def left(self) -> None:
        self.probe_ends = None


STEP = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([1, 2, 5, 10, 61])),
    st.tuples(st.just("admit")),
    st.tuples(st.just("succeed"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9), st.booleans(), st.sampled_from([0.0, 0.0, 3.0, 200.0])),
    st.tuples(st.just("fail"), st.integers(0, 9), st.just(False), st.just(0.0)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
)
RULES = BreakerSettings(consecutive=3, window_calls=6, cooldown_seconds=2, max_cooldown_seconds=20)


@given(st.lists(STEP, max_size=80))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_it_follows_the_plain_rules(steps: list[Any]) -> None:
    async def run() -> None:
        clock = Clock()
        breakers, model = Breakers(RULES, clock=clock), Model(RULES)
        under_way: list[bool] = []  # for each call, whether it is a probe
        for name, *arguments in steps:
            if name == "pass":
                clock.now += arguments[0]
            elif name == "admit":
                admission = await breakers.admit(KEY)
                expected = model.admit(clock.now)
                assert admission.allowed == (expected != "no")
                assert admission.probe == (expected == "probe")
                assert admission.allowed or admission.wait > 0
                if admission.allowed:
                    under_way.append(admission.probe)
            elif under_way:
                probe = under_way.pop(arguments[0] % len(under_way))
                if name == "succeed":
                    await breakers.succeeded(KEY, probe=probe)
                    model.ended(clock.now, probe=probe, failed=False, at_once=False, asked=0.0)
                elif name == "fail":
                    at_once, asked = arguments[1:]
                    seconds = await breakers.failed(KEY, probe=probe, at_once=at_once, retry_after=asked)
                    model.ended(clock.now, probe=probe, failed=True, at_once=at_once, asked=asked)
                    assert seconds == max(0.0, (model.ends or 0.0) - clock.now)
                else:
                    await breakers.left(KEY, probe=probe)
                    if probe:
                        model.left()
            expected_state = (
                "closed" if model.ends is None else "open" if clock.now < model.ends else "half_open"
            )
            assert breakers.state(KEY) == expected_state

    asyncio.run(run())


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


@given(steps=st.lists(STEP, max_size=60), cooldown=st.sampled_from([0.0, 1_000.0]))
@settings(max_examples=100, deadline=None)
def test_redis_follows_the_same_rules_as_a_process_alone(
    redis: str, steps: list[Any], cooldown: float
) -> None:
    # Time does not pass here: a cooldown is over at once, or not at all.
    rules = BreakerSettings(3, window_calls=6, cooldown_seconds=cooldown, max_cooldown_seconds=cooldown * 4)

    async def run() -> None:
        with Redis.from_url(redis) as client:
            client.delete(f"cognitionos:breaker:{KEY}")
        shared = SharedState(redis, timeout_seconds=5)
        shared.connect()
        both = Breakers(rules), Breakers(rules, shared=shared)
        under_way: list[bool] = []
        for name, *arguments in steps:
            if name == "admit":
                alone, together = [await breakers.admit(KEY) for breakers in both]
                assert (alone.allowed, alone.probe) == (together.allowed, together.probe)
                if alone.allowed:
                    under_way.append(alone.probe)
            elif name != "pass" and under_way:
                probe = under_way.pop(arguments[0] % len(under_way))
                if name == "succeed":
                    for breakers in both:
                        await breakers.succeeded(KEY, probe=probe)
                elif name == "fail":
                    at_once, asked = arguments[1], 500.0 if cooldown and arguments[2] else None
                    alone, together = [
                        await breakers.failed(KEY, probe=probe, at_once=at_once, retry_after=asked)
                        for breakers in both
                    ]
                    assert alone == pytest.approx(together, abs=5)
                else:
                    for breakers in both:
                        await breakers.left(KEY, probe=probe)
            assert both[0].state(KEY) == both[1].state(KEY)
        await shared.aclose()

    asyncio.run(run())


def test_an_answer_that_another_has_overtaken_is_not_believed() -> None:
    circuit = Circuit()
    circuit.adopt([0, 5, 1, b"5.0", b"", b"1000.2"], 10.0, 10.1)
    circuit.adopt([1, 4, 0, b"", b"", b"1000.1"], 10.0, 10.2)
    assert circuit.ends == 15.1
    circuit.adopt([1, 0, 0, b"", b"", b"900.0"], 10.3, 10.4)  # Redis' clock was set back
    assert circuit.ends is None
