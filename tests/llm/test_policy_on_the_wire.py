"""Each row of the policy, with both real SDKs, against the simulator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from cognitionos_provider.exceptions import LLMError, RequestRejectedError
from cognitionos_provider.llm import POLICY, Action, Connection, Limits, LLMRequest, LLMRouter
from cognitionos_provider.llm.breaker import BreakerSettings
from cognitionos_provider.llm.policy import Fault
from cognitionos_provider.simulator import SimulatorServer

Ask = Callable[..., LLMRequest]
MakeRouter = Callable[..., LLMRouter]

# Windows of 8,192 and 200,000 tokens, of 128,000 and 1,000,000.
MODELS = {
    "openai": ("openai:gpt-4", "anthropic:claude-3-haiku-20240307"),
    "anthropic": ("anthropic:claude-opus-4-5", "openai:gpt-6-luna"),
}
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic"])
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

# For each class, what the simulator does. "unexpected" is an error on this side, which no server can cause.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "bad_request": [{"status": 400}, {"status": 422}],
    "refusal": [{"refusal": True}],
    "context_window": [{"error_code": "context_length_exceeded"}],
    "rate_limit": [{"status": 429}, {"status": 429, "retry_after": 3}],
    "overloaded": [{"status": 503}, {"status": 529}],
    "server_error": [{"status": 500}, {"status": 502}, {"status": 504}],
    "connection": [{"drop": "before"}, {"drop": "headers"}, {"drop": "body"}],
    "timeout": [{"status": 408}, {"latency": 5}, {"slow_body": 5}],
    "conflict": [{"status": 409}],
    "schema": [{"answer": "no JSON"}, {"answer_json": {"n": "four"}}],
    "authentication": [{"status": 401}],
    "permission": [{"status": 403}],
    "model_not_found": [{"status": 404}],
    "quota": [{"status": 402}, {"error_code": "insufficient_quota"}],
    "http_error": [{"status": 413}],
    "empty_answer": [{"answer": ""}],
}
ROWS = [(name, fault) for name, faults in FAULTS.items() for fault in faults]


def test_each_fault_of_the_table_is_shown_here_but_for_those_that_the_simulator_cannot_have() -> None:
    assert set(get_args(Fault)) - set(FAULTS) == {"unexpected", "bad_answer"}


@PROVIDERS
@pytest.mark.parametrize(("error_class", "fault"), ROWS)
async def test_a_fault_leads_to_what_its_row_says(
    make_router: MakeRouter,
    sim: SimulatorServer,
    at: Any,
    ask: Ask,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    error_class: str,
    fault: dict[str, Any],
) -> None:
    sim.configure({"match": {"provider": provider}, **fault})
    router = make_router(tries_per_model=2, timeout_seconds=0.6)
    schema = {"output_schema": SCHEMA} if error_class == "schema" else {}
    request = ask(*MODELS[provider], timeout_seconds=60, **schema)
    rule = POLICY[error_class]  # type: ignore[index]
    with caplog.at_level(logging.CRITICAL):
        if rule.action is Action.FAIL:
            with pytest.raises(RequestRejectedError) as caught:
                await router.generate(request)
            attempts = caught.value.attempts
        else:
            response = await router.generate(request)
            attempts = response.attempts
            assert (attempts[-1].outcome, response.provider != provider) == ("ok", True)
    failed = [attempt for attempt in attempts if attempt.provider == provider]
    again = rule.action in (Action.RETRY, Action.ASK_AGAIN)
    assert [attempt.error_class for attempt in failed] == [error_class] * (2 if again else 1)
    # Each call that the simulator saw is on record under the id that it was sent.
    assert [call["client_id"] for call in sim.calls()] == [attempt.call_id for attempt in attempts]
    asked = fault.get("retry_after", 0)
    assert at.slept == ([asked + 1] if rule.action is Action.RETRY else [])
    assert bool(caplog.records) is rule.alert


@PROVIDERS
@pytest.mark.parametrize("error_class", [name for name, rule in POLICY.items() if name in FAULTS])
async def test_a_breaker_opens_at_once_for_what_somebody_has_to_mend_and_else_after_a_row_of_failures(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask, provider: str, error_class: str
) -> None:
    fault = FAULTS[error_class][0]
    sim.configure({"match": {"provider": provider}, **fault})
    router = make_router(breaker=BreakerSettings(consecutive=3, cooldown_seconds=30))
    schema = {"output_schema": SCHEMA} if error_class == "schema" else {}
    sent = []
    for _ in range(5):
        before = len(sim.calls())
        try:
            await router.generate(ask(*MODELS[provider], timeout_seconds=60, **schema))
        except LLMError:
            assert POLICY[error_class].action is Action.FAIL  # type: ignore[index]
        sent.append(sum(call["provider"] == provider for call in sim.calls()[before:]))
    expected = {"opens": [1, 0, 0, 0, 0], "failure": [1, 1, 1, 0, 0]}
    assert sent == expected.get(POLICY[error_class].breaker, [1, 1, 1, 1, 1])  # type: ignore[index]


@PROVIDERS
async def test_only_a_model_with_a_larger_window_is_asked_when_the_input_does_not_fit(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask, provider: str
) -> None:
    larger, smaller = MODELS[provider][1], MODELS[provider][0]
    sim.configure({"error_code": "context_length_exceeded"})
    router = make_router(local_base_url=sim.openai_base_url)
    with pytest.raises(LLMError, match="its context window") as caught:
        await router.generate(ask(larger, smaller, "local:unknown", retry={"max_attempts": 3}))
    assert [attempt.outcome for attempt in caught.value.attempts] == ["error", "skipped", "skipped"]
    assert not caught.value.can_retry


@PROVIDERS
@pytest.mark.parametrize(("policy", "outcomes"), [
    ({"bad_request": "next"}, ["error", "ok"]),
    ({"bad_request": "retry"}, ["error", "error", "ok"]),
])  # fmt: skip
async def test_an_agent_may_change_the_action_of_a_row(
    make_router: MakeRouter,
    sim: SimulatorServer,
    ask: Ask,
    provider: str,
    policy: dict[str, str],
    outcomes: list[str],
) -> None:
    sim.configure({"match": {"provider": provider}, "status": 400})
    router = make_router(tries_per_model=2)
    response = await router.generate(ask(*MODELS[provider], policy=policy))
    assert [attempt.outcome for attempt in response.attempts] == outcomes


async def test_a_content_policy_that_comes_as_a_400_is_a_refusal(
    router: LLMRouter, sim: SimulatorServer, ask: Ask
) -> None:
    fault = {"match": {"provider": "openai"}, "status": 400, "error_code": "content_policy_violation"}
    sim.configure(fault)
    with pytest.raises(RequestRejectedError) as caught:
        await router.generate(ask(*MODELS["openai"]))
    assert [attempt.error_class for attempt in caught.value.attempts] == ["refusal"]
    assert (await router.generate(ask(*MODELS["openai"], policy={"refusal": "next"}))).provider == "anthropic"


@PROVIDERS
async def test_with_several_errors_each_waits_for_its_own_retry_after(
    make_router: MakeRouter, sim: SimulatorServer, at: Any, ask: Ask, provider: str
) -> None:
    sim.configure(
        {"match": {"provider": provider}, "status": 429, "retry_after": 7, "times": 1},
        {"match": {"provider": provider}, "status": 503, "retry_after": 2, "times": 1},
    )
    router = make_router(tries_per_model=3, chance=lambda: 0.0)
    response = await router.generate(ask(*MODELS[provider], timeout_seconds=60))
    assert response.provider == provider
    assert at.slept == [7, 2]


@PROVIDERS
async def test_one_header_does_not_shut_a_model_off_for_longer_than_an_hour(
    make_router: MakeRouter, sim: SimulatorServer, at: Any, ask: Ask, provider: str
) -> None:
    sim.configure({"match": {"provider": provider}, "status": 429, "retry_after": 31_536_000, "times": 1})
    router = make_router(breaker=BreakerSettings(consecutive=1))
    response = await router.generate(ask(*MODELS[provider]))
    assert response.attempts[0].retry_after == 31_536_000
    await at.sleep(3_601)
    assert (await router.generate(ask(*MODELS[provider]))).provider == provider


@PROVIDERS
async def test_a_probe_that_gets_no_answer_leaves_the_breaker_open(
    make_router: MakeRouter, sim: SimulatorServer, at: Any, ask: Ask, provider: str
) -> None:
    sim.configure(
        {"match": {"provider": provider}, "status": 500, "times": 1},
        {"match": {"provider": provider}, "latency": 30},
    )
    router = make_router(breaker=BreakerSettings(consecutive=1, cooldown_seconds=5), timeout_seconds=0.3)
    sent = []
    for _ in range(4):
        before = len(sim.calls())
        assert (await router.generate(ask(*MODELS[provider]))).provider != provider
        sent.append(sum(call["provider"] == provider for call in sim.calls()[before:]))
        await at.sleep(6)
    # A call that opens it, a probe after 5 s, none for the 10 s after that, a probe.
    assert sent == [1, 1, 0, 1]


async def test_a_call_that_finds_no_room_at_one_model_is_put_to_the_next(
    sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"match": {"provider": "openai"}, "latency": 3})
    limits = Limits(max_in_flight=1)
    connections = [
        Connection(
            name="a", provider="openai", api_key=SecretStr("k"), base_url=sim.openai_base_url, limits=limits
        ),
        Connection(name="b", provider="anthropic", api_key=SecretStr("k"), base_url=sim.anthropic_base_url),
    ]
    async with LLMRouter(connections) as router:
        await router.warm_up()
        first = asyncio.create_task(router.generate(ask(*MODELS["openai"], timeout_seconds=10)))
        await asyncio.to_thread(sim.wait_for, lambda stats: stats["calls"] == 1)
        second = await router.generate(ask(*MODELS["openai"], timeout_seconds=1))
        first.cancel()
    assert [(attempt.outcome, attempt.error_class) for attempt in second.attempts] == [
        ("skipped", "no_room"),
        ("ok", None),
    ]
