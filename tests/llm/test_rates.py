from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from services import redis_url

from cognitionos_provider.llm.connection import Limits
from cognitionos_provider.llm.rates import BOOK, CORRECT, Charge, Rates, charge
from cognitionos_provider.llm.shared import SharedState


def book(rates: Rates, now: float, limits: Limits, tokens: int = 0, most: float = 1e9) -> float | None:
    costs = charge(limits, tokens)
    assert costs is not None
    return rates.book(now, costs, most)


def test_a_tenth_of_a_minute_goes_at_once_and_the_rest_at_an_even_pace() -> None:
    rates, limits = Rates(), Limits(requests_per_minute=60)
    assert [book(rates, 100.0, limits) for _ in range(9)] == [0, 0, 0, 0, 0, 0, 1, 2, 3]


def test_what_is_not_used_is_not_saved_up_beyond_a_tenth() -> None:
    rates, limits = Rates(), Limits(requests_per_minute=60)
    book(rates, 0.0, limits)
    assert [book(rates, 10_000.0, limits) for _ in range(8)] == [0, 0, 0, 0, 0, 0, 1, 2]


def test_one_request_passes_however_low_the_limit_is() -> None:
    rates, limits = Rates(), Limits(requests_per_minute=1)
    assert [book(rates, 0.0, limits) for _ in range(3)] == [0, 60, 120]


def test_a_call_of_more_than_a_tenth_passes_alone() -> None:
    rates, limits = Rates(), Limits(tokens_per_minute=600)
    assert book(rates, 0.0, limits, tokens=1_200) == 0
    assert book(rates, 0.0, limits, tokens=10) == 120 - 5  # the tenth of a minute is there for it
    assert book(rates, 0.0, limits, tokens=1_200) == 121  # it needs that for itself


def test_both_rates_are_taken_or_none() -> None:
    limits = Limits(requests_per_minute=60, tokens_per_minute=600)
    rates = Rates()
    assert book(rates, 0.0, limits, tokens=60) == 0
    assert book(rates, 0.0, limits, tokens=60, most=5.9) is None
    assert rates.due == [1, 6]
    assert book(rates, 0.0, limits, tokens=60, most=6) == 6
    assert rates.due == [7, 12]  # its request counts from when it is sent


def test_a_call_without_tokens_waits_for_no_tokens() -> None:
    limits = Limits(tokens_per_minute=600)
    rates = Rates()
    book(rates, 0.0, limits, tokens=6_000)
    assert book(rates, 0.0, limits, tokens=0) == 0


def test_what_a_call_took_less_is_there_for_the_next() -> None:
    limits = Limits(tokens_per_minute=600)
    rates = Rates()
    book(rates, 0.0, limits, tokens=600)
    rates.correct(0.0, 0.0, -54.0)
    assert book(rates, 0.0, limits, tokens=10) == 1
    rates.correct(0.0, 0.0, 10.0)
    assert book(rates, 0.0, limits, tokens=10) == 12


@given(
    limit=st.integers(1, 1_000),
    calls=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 300)), min_size=1, max_size=60),
)
def test_no_stretch_of_time_sees_more_than_its_share_and_a_tenth_of_a_minute(
    limit: int, calls: list[tuple[float, int]]
) -> None:
    rates, limits = Rates(), Limits(tokens_per_minute=limit)
    now, sent = 0.0, []
    for pause, tokens in calls:
        now += pause
        delay = book(rates, now, limits, tokens=tokens)
        assert delay is not None
        sent.append((now + delay, tokens))
    assert sent == sorted(sent, key=lambda call: call[0])
    for first, last in itertools.combinations_with_replacement(range(len(sent)), 2):
        stretch = sent[first : last + 1]
        seconds = stretch[-1][0] - stretch[0][0]
        burst = max(limit / 10, *(tokens for _, tokens in stretch))
        assert sum(tokens for _, tokens in stretch) <= burst + seconds * limit / 60 + 1e-3


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


CHARGES = [
    costs
    for limits in (
        Limits(requests_per_minute=1),
        Limits(tokens_per_minute=50),
        Limits(requests_per_minute=3, tokens_per_minute=100),
    )
    for tokens in (0, 1, 9, 40, 400)
    if (costs := charge(limits, tokens)) is not None
]
STEP = st.one_of(
    st.tuples(st.sampled_from(CHARGES), st.sampled_from([0.5, 30.0, 1e9])),
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
)


@given(steps=st.lists(STEP, max_size=30))
@settings(max_examples=100, deadline=None)
def test_redis_follows_the_same_rule_as_a_process_alone(
    redis: str, steps: list[tuple[Charge | float, float]]
) -> None:
    # Next to delays of seconds, the time that a step takes is nothing.
    async def run() -> None:
        with Redis.from_url(redis) as client:
            client.delete("cognitionos:rates")
        shared = SharedState(redis, timeout_seconds=5)
        shared.connect()
        rates, adopted = Rates(), Rates()
        for what, number in steps:
            if isinstance(what, tuple):
                alone = rates.book(0.0, what, number)
                delay, *left = await shared.run(BOOK, ["rates"], [*what[0], *what[1], number])
                together = float(delay) if delay else None
                if alone != together and None in (alone, together):
                    return  # a delay of just what is allowed
                assert alone == pytest.approx(together, abs=1)
                adopted.adopt(left, 0.0)
                due = [max(0.0, due) for due in rates.due]
                assert [max(0.0, due) for due in adopted.due] == pytest.approx(due, abs=1)
            else:
                rates.correct(0.0, what, number)
                await shared.run(CORRECT, ["rates"], [what, number])
        await shared.aclose()

    asyncio.run(run())
