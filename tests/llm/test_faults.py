"""Whatever providers do, in whatever order: the deadline holds, each call is on record, no answer is paid twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cognitionos_provider.exceptions import LLMError
from cognitionos_provider.llm import Journal, LLMRequest, LLMRouter, create_llm_router
from cognitionos_provider.llm.breaker import BreakerSettings
from cognitionos_provider.llm.journal import read_history
from cognitionos_provider.simulator import SimulatorServer

GPT, CLAUDE = "openai:gpt-4", "anthropic:claude-3-haiku-20240307"
LATE = 0.5

faults = st.one_of(
    st.sampled_from([400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 503, 529]).map(
        lambda it: {"status": it}
    ),
    st.floats(0, 0.4).map(lambda seconds: {"status": 429, "retry_after": round(seconds, 3)}),
    st.sampled_from(["before", "headers", "body"]).map(lambda it: {"drop": it}),
    st.floats(0, 2).map(lambda seconds: {"latency": round(seconds, 3)}),
    st.floats(0.05, 2).map(lambda seconds: {"slow_body": round(seconds, 3)}),
    st.sampled_from([{"refusal": True}, {"answer": ""}, {"answer": "no JSON"}, {"answer_json": {"n": 1}}]),
)
rules = st.lists(
    st.builds(
        lambda fault, provider, times: {"match": {"provider": provider}, "times": times, **fault},
        faults,
        st.sampled_from(["openai", "anthropic"]),
        st.integers(1, 4),
    ),
    max_size=6,
)
requests = st.fixed_dictionaries(
    {
        "timeout_seconds": st.floats(0.1, 1).map(lambda it: round(it, 3)),
        "retry": st.fixed_dictionaries(
            {"max_attempts": st.integers(1, 3), "backoff_seconds": st.sampled_from([0, 0.05, 5])}
        ),
        "output_schema": st.sampled_from([None, {"type": "object", "required": ["n"]}]),
        "policy": st.dictionaries(
            st.sampled_from(["bad_request", "refusal", "timeout"]), st.sampled_from(["fail", "next", "retry"])
        ),
    }
)


class Kept(dict[str, str]):
    """A journal's store that is as slow as Airflow's."""

    async def read(self, key: str) -> str | None:
        return self.get(key)

    async def write(self, key: str, text: str) -> None:
        await asyncio.sleep(0.003)
        assert key not in self
        self[key] = text


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorServer]:
    with SimulatorServer() as made:
        yield made


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Any], Any]]:
    """Run coroutines on one loop, so that the routers' first use is over before anything is timed."""
    with asyncio.Runner() as runner:
        yield runner.run


@asynccontextmanager
async def scene(
    server: SimulatorServer, rules: list[dict[str, Any]], fields: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[LLMRouter, LLMRequest]]:
    """A router of its own, whose providers have these faults, and a request to put to it."""
    server.reset()
    server.configure(*rules)
    message = {"role": "user", "content": "Hello!"}
    request = LLMRequest.model_validate({"messages": [message], "models": [GPT, CLAUDE], **fields})
    urls = {"openai_base_url": server.openai_base_url, "anthropic_base_url": server.anthropic_base_url}
    async with create_llm_router("a", "b", **urls, **settings) as router:
        await router.warm_up()
        yield router, request


async def tell(router: LLMRouter, kept: Kept, request: LLMRequest) -> tuple[Any, float]:
    journal = Journal(kept, 1)
    await journal.open()
    begun = time.monotonic()
    try:
        response: Any = await router.generate(request, journal=journal)
    except LLMError as error:
        response = error
    took = time.monotonic() - begun
    await journal.finish(None)
    return response, took


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=rules, fields=requests, tries=st.integers(1, 3), attempt_seconds=st.sampled_from([0.2, 1.5]))
def test_no_sequence_of_faults_outlives_the_deadline_loses_an_attempt_or_pays_twice(
    server: SimulatorServer,
    run: Callable[[Any], Any],
    rules: list[dict[str, Any]],
    fields: dict[str, Any],
    tries: int,
    attempt_seconds: float,
) -> None:
    async def example() -> None:
        kept = Kept()
        breaker = BreakerSettings(consecutive=2, cooldown_seconds=0.1)
        settings = {"tries_per_model": tries, "timeout_seconds": attempt_seconds, "breaker": breaker}
        async with scene(server, rules, fields, **settings) as (router, request):
            first, took = await tell(router, kept, request)
            assert took <= request.timeout_seconds + LATE
            seen = {call["client_id"] for call in server.calls()}
            told = {attempt.call_id for attempt in first.attempts if attempt.outcome != "skipped"}
            assert seen <= told
            history = read_history(kept[key] for key in sorted(kept))
            assert [attempt for attempt in history.attempts() if attempt.outcome != "skipped"] == [
                attempt for attempt in first.attempts if attempt.outcome != "skipped"
            ]
            assert not history.open
            if isinstance(first, LLMError):
                assert not history.answers
                return
            again, _ = await tell(router, kept, request)
            assert (again.content, again.source) == (first.content, "journal")
            assert {call["client_id"] for call in server.calls()} == seen

    run(example())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=rules, fields=requests, after=st.floats(0, 0.5))
def test_a_call_that_is_cancelled_at_any_time_leaves_each_call_that_was_sent_on_record(
    server: SimulatorServer,
    run: Callable[[Any], Any],
    rules: list[dict[str, Any]],
    fields: dict[str, Any],
    after: float,
) -> None:
    async def example() -> None:
        kept = Kept()
        async with scene(server, rules, fields) as (router, request):
            journal = Journal(kept, 1)
            await journal.open()
            call = asyncio.create_task(router.generate(request, journal=journal))
            await asyncio.sleep(after)
            call.cancel()
            begun = time.monotonic()
            await asyncio.wait([call])
            assert time.monotonic() - begun < LATE
            await journal.flush()
        history = read_history(kept[key] for key in sorted(kept))
        told = {attempt.call_id for attempt in history.attempts(ended=True)}
        assert {call["client_id"] for call in server.calls()} <= told

    run(example())
