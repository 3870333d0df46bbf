from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cognitionos_provider.exceptions import AllModelsFailedError, DeadlineExceededError
from cognitionos_provider.llm import Attempt, LLMRequest, LLMRouter
from cognitionos_provider.llm.client import Client
from cognitionos_provider.simulator import SimulatorServer

Ask = Callable[..., LLMRequest]
MakeRouter = Callable[..., LLMRouter]
Seen = Callable[[], dict[str, int]]

GPT, CLAUDE = "openai:gpt-4", "anthropic:claude-3-haiku-20240307"
CHAINS = {"openai": (GPT, CLAUDE), "anthropic": (CLAUDE, GPT)}
# The body trickles in 16 pieces, each well within the time that a read may take.
SLOW = [{"latency": 30}, {"slow_body": 4}]
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic"])


@PROVIDERS
@pytest.mark.parametrize("fault", SLOW)
@STREAM
async def test_the_deadline_ends_a_call_that_is_slow_before_or_within_its_body(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str, fault: dict[str, Any], stream: bool
) -> None:
    sim.configure({"match": {}, **fault})
    begun = time.monotonic()
    request = ask(*CHAINS[provider], timeout_seconds=0.6, retry={"max_attempts": 3}, stream=stream)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.6 s.*no answer within") as caught:
        await router.generate(request)
    assert time.monotonic() - begun < 1.1
    (attempt,) = caught.value.attempts
    assert (attempt.outcome, attempt.error_class, attempt.possibly_billed) == ("error", "timeout", True)


@PROVIDERS
@pytest.mark.parametrize("fault", SLOW)
async def test_a_provider_that_hangs_leaves_time_for_the_next_one(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask, provider: str, fault: dict[str, Any]
) -> None:
    sim.configure({"match": {"provider": provider}, **fault})
    response = await make_router(timeout_seconds=0.6).generate(ask(*CHAINS[provider], timeout_seconds=20))
    assert response.attempts[0].error_class == "timeout"
    assert response.provider != provider


async def test_a_wait_that_does_not_fit_the_deadline_is_not_waited(
    router: LLMRouter, sim: SimulatorServer, seen: Seen, at: Any, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 429, "retry_after": 30})
    request = ask(GPT, CLAUDE, timeout_seconds=20, retry={"max_attempts": 5})
    with pytest.raises(DeadlineExceededError, match=r"next pass would start in 30 s.*HTTP 429") as caught:
        await router.generate(request)
    assert at.slept == []
    assert seen() == {"openai": 1, "anthropic": 1}
    assert len(caught.value.attempts) == 2


async def test_a_try_whose_wait_does_not_fit_the_deadline_gives_way_to_the_next_model(
    make_router: MakeRouter, sim: SimulatorServer, seen: Seen, at: Any, ask: Ask
) -> None:
    sim.configure({"match": {"provider": "openai"}, "status": 429, "retry_after": 30})
    response = await make_router(tries_per_model=3).generate(ask(GPT, CLAUDE, timeout_seconds=20))
    assert response.provider == "anthropic"
    assert at.slept == []
    assert seen() == {"openai": 1, "anthropic": 1}


async def test_when_the_time_is_up_the_next_model_is_not_asked(
    router: LLMRouter, sim: SimulatorServer, seen: Seen, at: Any, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 500})

    async def dawdle(_: Attempt) -> None:
        await at.sleep(100)

    with pytest.raises(DeadlineExceededError, match="before the next model could be asked"):
        await router.generate(ask(GPT, CLAUDE, timeout_seconds=50), on_attempt=dawdle)
    assert seen() == {"openai": 1}


async def test_loading_the_sdks_counts_against_the_deadline_and_happens_once(
    make_router: MakeRouter, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, connected, connect = threading.Event(), [], Client.connect

    def slowly(client: Client) -> None:
        gate.wait(10)
        connected.append(client.connection.name)
        connect(client)

    monkeypatch.setattr(Client, "connect", slowly)
    router = make_router()
    try:
        for _ in range(2):
            with pytest.raises(DeadlineExceededError, match="still being loaded"):
                await router.generate(ask(GPT, timeout_seconds=0.05))
    finally:
        gate.set()
    await asyncio.gather(*(router.generate(ask(GPT)) for _ in range(3)))
    assert connected == ["openai"]


async def test_a_router_that_is_closed_under_a_call_ends_the_call(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"match": {}, "status": 500})

    async def close(_: float) -> None:
        await router.aclose()

    router = make_router(sleep=close)
    with pytest.raises(AllModelsFailedError, match="closed during the call"):
        await router.generate(ask(GPT, retry={"max_attempts": 3}))


@PROVIDERS
@STREAM
async def test_a_cancelled_call_closes_its_connection_and_is_on_record(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str, stream: bool
) -> None:
    sim.configure({"match": {}, "slow_body": 5})
    told: list[Attempt] = []

    async def tell(attempt: Attempt) -> None:
        await asyncio.sleep(0)
        told.append(attempt)

    request = ask(*CHAINS[provider], stream=stream)
    call = asyncio.create_task(router.generate(request, on_attempt=tell))
    await asyncio.to_thread(sim.wait_for, lambda stats: stats["calls"] == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [(each.error_class, each.possibly_billed) for each in told] == [("cancelled", True)]
    await asyncio.to_thread(sim.wait_for, lambda stats: stats["disconnected"] == 1)
    assert len(sim.calls()) == 1


async def test_a_listener_that_hangs_holds_up_a_cancelled_call_for_a_second_at_most(
    router: LLMRouter, sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"match": {}, "latency": 30})
    call = asyncio.create_task(router.generate(ask(GPT), on_attempt=lambda _: asyncio.Event().wait()))  # type: ignore[arg-type, return-value]
    await asyncio.to_thread(sim.wait_for, lambda stats: stats["calls"] == 1)
    begun = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.monotonic() - begun < 3


async def test_a_call_cancelled_while_it_waits_for_room_was_not_made(
    make_router: MakeRouter, ask: Ask, serve: Callable[..., Awaitable[str]], sim: SimulatorServer
) -> None:
    # One connection, and it is taken: the second call waits for it and has sent nothing.
    router = make_router(max_connections=1)
    sim.configure({"match": {}, "latency": 30})
    told: list[Attempt] = []
    first = asyncio.create_task(router.generate(ask(GPT)))
    await asyncio.to_thread(sim.wait_for, lambda stats: stats["calls"] == 1)
    second = asyncio.create_task(router.generate(ask(GPT), on_attempt=told.append))
    await asyncio.sleep(0.05)
    for call in (second, first):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert told == []
    assert len(sim.calls()) == 1


@PROVIDERS
@pytest.mark.parametrize("drop", ["headers", "body"])
async def test_a_stream_that_breaks_off_falls_back_and_may_have_been_billed(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, provider: str, drop: str
) -> None:
    sim.configure({"match": {"provider": provider}, "drop": drop})
    response = await router.generate(ask(*CHAINS[provider], stream=True))
    broken, answered = response.attempts
    assert (broken.error_class, broken.possibly_billed) == ("connection", True)
    assert answered.outcome == "ok"
