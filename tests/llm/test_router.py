from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from cognitionos_provider.exceptions import (
    AllModelsFailedError,
    ConfigurationError,
    LLMError,
    RequestRejectedError,
    UnknownModelError,
)
from cognitionos_provider.llm import Attempt, LLMRequest, LLMRouter, create_llm_router
from cognitionos_provider.llm import client as client_module
from cognitionos_provider.simulator import SimulatorServer

Ask = Callable[..., LLMRequest]
MakeRouter = Callable[..., LLMRouter]
Seen = Callable[[], dict[str, int]]

GPT, CLAUDE = "openai:gpt-4", "anthropic:claude-3-haiku-20240307"
CHAINS = {"openai": (GPT, CLAUDE), "anthropic": (CLAUDE, GPT)}
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic"])

# What the simulator does -> the class of the error, its HTTP status, whether it may get better.
NEXT = [
    ({"drop": "before"}, "connection", None, True),
    ({"drop": "headers"}, "connection", None, True),
    ({"drop": "body"}, "connection", None, True),
    ({"status": 408}, "timeout", 408, True),
    ({"status": 409}, "conflict", 409, True),
    ({"status": 429}, "rate_limit", 429, True),
    ({"status": 500}, "server_error", 500, True),
    ({"status": 502}, "server_error", 502, True),
    ({"status": 503}, "overloaded", 503, True),
    ({"status": 504}, "server_error", 504, True),
    ({"status": 529}, "overloaded", 529, True),
    ({"status": 401}, "authentication", 401, False),
    ({"status": 402}, "quota", 402, False),
    ({"status": 403}, "permission", 403, False),
    ({"status": 404}, "model_not_found", 404, False),
    ({"status": 413}, "http_error", 413, False),
    ({"answer": ""}, "empty_answer", None, False),
    ({"answer": " \n"}, "empty_answer", None, False),
]


@PROVIDERS
@pytest.mark.parametrize(("fault", "error_class", "status", "_better"), NEXT)
async def test_a_failure_of_one_provider_is_answered_by_the_other(
    router: LLMRouter,
    sim: SimulatorServer,
    seen: Seen,
    ask: Ask,
    provider: str,
    fault: dict[str, Any],
    error_class: str,
    status: int | None,
    _better: bool,
) -> None:
    sim.configure({"match": {"provider": provider}, **fault})
    response = await router.generate(ask(*CHAINS[provider]))
    failed, answered = response.attempts
    assert (failed.provider, failed.outcome) == (provider, "error")
    assert (failed.error_class, failed.http_status) == (error_class, status)
    assert failed.message
    assert (answered.outcome, answered.provider) == ("ok", response.provider)
    assert response.provider != provider
    assert "simulated" in response.content
    # Neither the SDKs nor pydantic-ai tried again by themselves.
    assert seen() == {"openai": 1, "anthropic": 1}


@PROVIDERS
@pytest.mark.parametrize(("fault", "error_class", "status", "better"), NEXT)
async def test_only_a_failure_that_may_get_better_is_worth_another_pass(
    router: LLMRouter,
    sim: SimulatorServer,
    seen: Seen,
    ask: Ask,
    provider: str,
    fault: dict[str, Any],
    error_class: str,
    status: int | None,
    better: bool,
) -> None:
    sim.configure({"match": {}, **fault})
    with pytest.raises(AllModelsFailedError) as caught:
        await router.generate(ask(*CHAINS[provider], retry={"max_attempts": 3}))
    passes = 3 if better else 1
    assert seen() == {"openai": passes, "anthropic": passes}
    assert {attempt.error_class for attempt in caught.value.attempts} == {error_class}


@PROVIDERS
@pytest.mark.parametrize(
    ("fault", "error_class", "status"),
    [
        ({"status": 400}, "bad_request", 400),
        ({"status": 422}, "bad_request", 422),
    ],
)
async def test_a_request_that_is_wrong_is_sent_once_whatever_the_retry_block_says(
    make_router: MakeRouter,
    sim: SimulatorServer,
    seen: Seen,
    ask: Ask,
    provider: str,
    fault: dict[str, Any],
    error_class: str,
    status: int,
) -> None:
    sim.configure({"match": {}, **fault})
    router = make_router(tries_per_model=3)
    with pytest.raises(
        RequestRejectedError, match=f"{CHAINS[provider][0]}.*HTTP {status}.*correct"
    ) as caught:
        await router.generate(ask(*CHAINS[provider], retry={"max_attempts": 20}))
    assert seen() == {provider: 1}
    assert [attempt.error_class for attempt in caught.value.attempts] == [error_class]


@PROVIDERS
async def test_an_account_that_is_used_up_is_no_rate_limit_and_no_bad_request(
    router: LLMRouter, sim: SimulatorServer, seen: Seen, ask: Ask, provider: str
) -> None:
    sim.configure({"match": {"provider": provider}, "error_code": "insufficient_quota"})
    response = await router.generate(ask(*CHAINS[provider], retry={"max_attempts": 3}))
    assert response.attempts[0].error_class == "quota"
    assert seen() == {"openai": 1, "anthropic": 1}


@PROVIDERS
async def test_a_refused_connection_falls_back_and_can_not_have_been_billed(
    make_router: MakeRouter, ask: Ask, refused: str, provider: str
) -> None:
    response = await make_router(**{f"{provider}_base_url": refused}).generate(ask(*CHAINS[provider]))
    failed = response.attempts[0]
    assert (failed.error_class, failed.message) == ("connection", "connection refused")
    assert failed.possibly_billed is False


@PROVIDERS
@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        ({"drop": "before"}, True),
        ({"drop": "headers"}, True),
        ({"drop": "body"}, True),
        ({"status": 500}, False),
        ({"status": 429}, False),
        ({"answer": ""}, False),
    ],
)
async def test_an_answer_that_got_lost_may_have_been_billed(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str, fault: dict[str, Any], billed: bool
) -> None:
    sim.configure({"match": {"provider": provider}, **fault})
    response = await router.generate(ask(*CHAINS[provider]))
    assert response.attempts[0].possibly_billed is billed
    assert response.attempts[1].possibly_billed is False


async def test_with_both_providers_down_the_error_names_the_last_failure_of_each(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask, refused: str
) -> None:
    sim.configure({"match": {}, "status": 500, "message": "out of order"})
    router = make_router(anthropic_base_url=refused)
    with pytest.raises(AllModelsFailedError) as caught:
        await router.generate(ask(GPT, CLAUDE))
    assert str(caught.value) == (
        f"No model answered: {GPT}: HTTP 500: out of order; {CLAUDE}: connection refused"
    )
    assert [attempt.provider for attempt in caught.value.attempts] == ["openai", "anthropic"]
    # A cause would carry the request with its headers, and whatever the provider wrote.
    assert caught.value.__cause__ is caught.value.__context__ is None


async def test_a_model_without_a_key_is_skipped_once_and_the_next_is_asked(
    make_router: MakeRouter, sim: SimulatorServer, seen: Seen, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 500, "times": 1})
    router = make_router(openai_api_key=None)
    response = await router.generate(ask(GPT, CLAUDE, retry={"max_attempts": 2}))
    assert [attempt.outcome for attempt in response.attempts] == ["skipped", "error", "ok"]
    assert response.attempts[0].error_class == "missing_key"
    assert "no API key for openai" in (response.attempts[0].message or "")
    assert seen() == {"anthropic": 2}


async def test_without_any_key_all_are_skipped_and_nothing_is_waited_for(
    make_router: MakeRouter, at: Any, ask: Ask
) -> None:
    router = make_router(openai_api_key="", anthropic_api_key="  ")
    with pytest.raises(AllModelsFailedError, match=r"openai:gpt-4: no API key.*; anthropic:.*: no API key"):
        await router.generate(ask(GPT, CLAUDE, retry={"max_attempts": 5}))
    assert at.slept == []
    assert router.configured == ()


async def test_one_bare_model_falls_back_to_the_default_of_the_other_provider(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"match": {"provider": "openai"}, "status": 500})
    router = make_router(default_models=["gpt-4o", "claude-3-haiku-20240307"])
    response = await router.generate(ask(model="gpt-4", temperature=0.7))
    assert [str(attempt.model) for attempt in response.attempts] == ["gpt-4", "claude-3-haiku-20240307"]
    assert f"{response.cost_usd:.4f}" == "0.0000"


async def test_an_unknown_model_anywhere_in_the_chain_is_refused_before_anything_is_sent(
    router: LLMRouter, seen: Seen, ask: Ask
) -> None:
    with pytest.raises(UnknownModelError, match="'llama3'"):
        await router.generate(ask(GPT, "llama3"))
    assert seen() == {}


@PROVIDERS
async def test_the_answer_carries_content_usage_and_cost(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str
) -> None:
    sim.configure(
        {"match": {}, "answer": "Forty-two.", "usage": {"input_tokens": 1000, "output_tokens": 500}}
    )
    response = await router.generate(ask(CHAINS[provider][0]))
    assert response.content == "Forty-two."
    assert (response.provider, response.model) == tuple(CHAINS[provider][0].split(":"))
    assert response.usage
    assert response.usage.model_dump() == {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
    }
    assert response.cost_usd == {"openai": Decimal("0.06"), "anthropic": Decimal("0.000875")}[provider]
    assert response.finish_reason == "stop"
    assert response.attempts[0].cost_usd == response.cost_usd
    assert json.loads(response.model_dump_json())["cost_usd"] == float(response.cost_usd)


@PROVIDERS
async def test_a_model_without_a_known_price_costs_none_and_not_zero(
    router: LLMRouter, ask: Ask, provider: str
) -> None:
    response = await router.generate(ask(f"{provider}:in-house-7b"))
    assert response.cost_usd is None
    assert response.usage is not None


@PROVIDERS
async def test_an_answer_without_usage_has_no_cost(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str
) -> None:
    sim.configure({"match": {}, "usage": {"input_tokens": 0, "output_tokens": 0}})
    response = await router.generate(ask(CHAINS[provider][0]))
    assert response.usage is response.cost_usd is None


async def test_an_empty_answer_that_was_billed_keeps_its_cost(
    router: LLMRouter, sim: SimulatorServer, ask: Ask
) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 500}
    sim.configure({"match": {"provider": "openai"}, "answer": "", "usage": usage})
    response = await router.generate(ask(GPT, CLAUDE))
    assert response.attempts[0].cost_usd == Decimal("0.06")
    assert response.cost_usd != response.attempts[0].cost_usd


@PROVIDERS
async def test_a_200_that_can_not_be_read_falls_back(
    make_router: MakeRouter, serve: Callable[..., Awaitable[str]], ask: Ask, provider: str
) -> None:
    for body, kind in (
        (b"<html>maintenance</html>", "text/html"),
        (b'{"choices": [', "application/json"),
        (b'{"unexpected": true}', "application/json"),
        (b"null", "application/json"),
    ):
        url = await serve(body, "200 OK", f"content-type: {kind}")
        response = await make_router(**{f"{provider}_base_url": url}).generate(ask(*CHAINS[provider]))
        failed = response.attempts[0]
        assert failed.error_class in ("bad_answer", "unexpected"), body
        assert failed.possibly_billed is True
        assert response.provider != provider


@PROVIDERS
async def test_a_redirect_is_not_followed_with_the_key(
    make_router: MakeRouter,
    sim: SimulatorServer,
    serve: Callable[..., Awaitable[str]],
    seen: Seen,
    ask: Ask,
    provider: str,
) -> None:
    url = await serve(b"", "307 Temporary Redirect", f"location: {sim.url}/v1/messages")
    router = make_router(**{f"{provider}_base_url": url})
    with pytest.raises(AllModelsFailedError, match=r"HTTP 307.*base URL") as caught:
        await router.generate(ask(CHAINS[provider][0]))
    assert caught.value.attempts[0].http_status == 307
    assert seen() == {}


async def test_between_passes_the_wait_grows_and_each_is_asked_again_only_when_it_wants_to(
    router: LLMRouter, sim: SimulatorServer, at: Any, ask: Ask
) -> None:
    sim.configure(
        {"match": {"provider": "openai"}, "status": 429, "retry_after": 9},
        {"match": {"provider": "anthropic"}, "status": 529, "retry_after": 5},
    )
    retry = {"max_attempts": 4, "backoff_seconds": 2, "backoff_multiplier": 3, "max_backoff_seconds": 100}
    with pytest.raises(AllModelsFailedError) as caught:
        await router.generate(ask(GPT, CLAUDE, retry=retry))
    # Anthropic is ready first, and alone in the second pass: OpenAI asked for 9 s.
    assert at.slept == pytest.approx([5, 6, 18], rel=0.01)
    assert [attempt.retry_after for attempt in caught.value.attempts] == [9, 5, 5, 9, 5, 9, 5]


async def test_the_next_pass_leaves_out_what_can_not_get_better(
    router: LLMRouter, sim: SimulatorServer, seen: Seen, ask: Ask
) -> None:
    sim.configure(
        {"match": {"provider": "openai"}, "status": 401},
        {"match": {"provider": "anthropic"}, "status": 500, "times": 2},
    )
    response = await router.generate(ask(GPT, CLAUDE, retry={"max_attempts": 3}))
    assert seen() == {"openai": 1, "anthropic": 3}
    assert response.provider == "anthropic"


async def test_without_a_retry_block_there_is_one_pass(
    router: LLMRouter, sim: SimulatorServer, seen: Seen, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 500})
    with pytest.raises(AllModelsFailedError):
        await router.generate(ask(GPT, CLAUDE))
    assert seen() == {"openai": 1, "anthropic": 1}


async def test_the_number_of_calls_is_passes_by_candidates_by_tries(
    make_router: MakeRouter, sim: SimulatorServer, seen: Seen, at: Any, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 503})
    with pytest.raises(AllModelsFailedError):
        await make_router(tries_per_model=3).generate(ask(GPT, CLAUDE, retry={"max_attempts": 2}))
    assert seen() == {"openai": 6, "anthropic": 6}
    assert at.slept == [1, 2, 1, 2, 1, 1, 2, 1, 2]


async def test_a_try_waits_as_long_as_its_own_error_asks(
    make_router: MakeRouter, sim: SimulatorServer, at: Any, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 429, "retry_after": 11, "times": 1})
    response = await make_router(tries_per_model=2).generate(ask(GPT))
    assert response.provider == "openai"
    # And a little longer, so that not all who were refused together come back together.
    assert at.slept == [11 + 1]


async def test_a_failure_that_can_not_get_better_is_not_tried_again_within_the_pass(
    make_router: MakeRouter, sim: SimulatorServer, seen: Seen, ask: Ask
) -> None:
    sim.configure({"match": {"provider": "openai"}, "status": 403})
    await make_router(tries_per_model=5).generate(ask(GPT, CLAUDE))
    assert seen() == {"openai": 1, "anthropic": 1}


async def test_each_attempt_is_told_as_soon_as_it_has_ended(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 500, "times": 1})
    told: list[Attempt] = []
    router = make_router()

    async def tell(attempt: Attempt) -> None:
        await asyncio.sleep(0)
        told.append(attempt)

    response = await router.generate(ask(GPT, CLAUDE), on_attempt=tell)
    assert told == response.attempts
    response = await router.generate(ask(GPT), on_attempt=told.append)
    assert told[2:] == response.attempts


async def test_a_listener_that_fails_does_not_cost_the_answer(
    router: LLMRouter, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Attempt) -> None:
        raise ValueError("the listener is broken")

    with caplog.at_level(logging.ERROR):
        response = await router.generate(ask(GPT), on_attempt=fail)
    assert response.content
    assert "the listener is broken" in caplog.text


@PROVIDERS
async def test_a_conversation_arrives_with_its_roles_and_settings(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str
) -> None:
    model = CHAINS[provider][0]
    sim.configure({"match": {"contains": "Be brief"}, "answer": "seen"})
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "One."},
        {"role": "system", "content": "Now be long"},
        {"role": "user", "content": "Two?"},
    ]
    response = await router.generate(ask(model, messages=messages, temperature=0.2, max_tokens=5))
    assert response.content == "seen"
    assert "Two?" in sim.calls()[-1]["question"]


async def test_system_text_after_the_start_keeps_its_place_where_the_provider_takes_none_there(
    make_router: MakeRouter, serve: Callable[..., Awaitable[str]], received: list[bytes], ask: Ask
) -> None:
    router = make_router(anthropic_base_url=await serve(b"", "500 Internal Server Error"))
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "One."},
        {"role": "system", "content": "Now be long"},
        {"role": "user", "content": "Two?"},
    ]
    with pytest.raises(AllModelsFailedError, match="no further reason given"):
        await router.generate(ask(CLAUDE, messages=messages))
    sent = json.loads(received[0])
    assert "Now be long" not in json.dumps(sent["system"])
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert "Now be long" in json.dumps(sent["messages"][-1])


async def test_an_answer_that_is_cut_off_says_so(router: LLMRouter, ask: Ask) -> None:
    response = await router.generate(ask(CLAUDE, max_tokens=1))
    assert response.finish_reason == "length"


async def test_no_key_is_shown_in_an_error_an_attempt_or_a_repr(
    make_router: MakeRouter, serve: Callable[..., Awaitable[str]], ask: Ask
) -> None:
    keys = ("sk-openai-secret-0123456789", "sk-ant-secret-9876543210")
    body = json.dumps({"error": {"message": f"bad keys: {' '.join(keys)}\n\0\ud800"}}).encode()
    url = await serve(body, "401 Unauthorized", "content-type: application/json")
    router = make_router(openai_base_url=url, anthropic_base_url=url)
    with pytest.raises(LLMError) as caught:
        await router.generate(ask(GPT, CLAUDE))
    shown = [str(caught.value), repr(caught.value.attempts), repr(router), repr(vars(router))]
    shown.append(repr(await router.health_check_all()))
    assert all(key not in text for key in keys for text in shown)
    assert "bad keys: *** ***" in str(caught.value)
    assert all(attempt.model_dump_json().isprintable() for attempt in caught.value.attempts)


async def test_a_base_url_for_anthropic_may_end_in_v1_like_that_of_openai(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask
) -> None:
    router = make_router(anthropic_base_url=f"{sim.url}/v1/")
    assert (await router.generate(ask(CLAUDE))).provider == "anthropic"


@pytest.mark.parametrize(
    "bad",
    [
        {"openai_base_url": "localhost:8000"},
        {"timeout_seconds": 0},
        {"tries_per_model": 0},
        {"max_connections": 0},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ConfigurationError, match=name.removesuffix("_base_url")):
        create_llm_router("a", "b", **bad)


def test_a_default_model_without_a_provider_is_refused() -> None:
    with pytest.raises(UnknownModelError, match="llama3"):
        create_llm_router("a", "b", default_models=["llama3"])


async def test_a_client_that_can_not_be_built_is_a_clear_error_and_may_work_later(
    make_router: MakeRouter, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router()
    with monkeypatch.context() as broken:
        broken.setenv("ALL_PROXY", "gopher://nowhere")
        with pytest.raises(ConfigurationError, match=r"openai.*proxy"):
            await router.generate(ask(GPT))
    assert (await router.generate(ask(GPT))).content


async def test_a_closed_router_says_so(sim: SimulatorServer, ask: Ask) -> None:
    async with create_llm_router("a", openai_base_url=sim.openai_base_url) as router:
        await router.generate(ask(GPT))
    with pytest.raises(ConfigurationError, match="closed"):
        await router.generate(ask(GPT))


async def test_any_number_of_model_names_is_served_by_one_router(
    router: LLMRouter, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_MOST_MODELS", 3)
    names = {f"model-{n}" for n in range(10)}
    responses = [await router.generate(ask(f"openai:{name}")) for name in names]
    assert {response.model for response in responses} == names
    assert len(router._clients["openai"]._models) <= 3


async def test_without_max_tokens_a_model_with_a_large_output_is_not_made_to_stream(
    make_router: MakeRouter, serve: Callable[..., Awaitable[str]], received: list[bytes], ask: Ask
) -> None:
    router = make_router(anthropic_base_url=await serve(b"overloaded, come back later", "529 Overloaded"))
    for fields in ({}, {"max_tokens": 50_000}):
        with pytest.raises(AllModelsFailedError, match="HTTP 529: overloaded, come back later"):
            await router.generate(ask("anthropic:claude-haiku-4-5", **fields))
    sent = [json.loads(body) for body in received]
    assert [body["max_tokens"] for body in sent] == [16_384, 50_000]
    assert not any(body.get("stream") for body in sent)


async def test_more_calls_than_connections_wait_for_one(make_router: MakeRouter, ask: Ask) -> None:
    with SimulatorServer(latency=0.02) as sim:
        router = make_router(max_connections=2, openai_base_url=sim.openai_base_url)
        await asyncio.gather(*(router.generate(ask(GPT)) for _ in range(8)))
        assert sim.stats()["max_in_flight"] == 2


@pytest.mark.parametrize(
    ("fault", "can_retry"),
    [({"status": 500}, True), ({"status": 401}, False), ({"status": 400}, False)],
)
async def test_an_error_tells_whether_another_time_may_end_better(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, fault: dict[str, Any], can_retry: bool
) -> None:
    sim.configure(
        {"match": {"provider": "openai"}, "status": 403}, {"match": {"provider": "anthropic"}, **fault}
    )
    with pytest.raises(LLMError) as caught:
        await router.generate(ask(GPT, CLAUDE))
    assert caught.value.can_retry is can_retry
