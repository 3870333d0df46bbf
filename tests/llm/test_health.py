from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr

from cognitionos_provider.llm import Connection, LLMRequest, LLMRouter
from cognitionos_provider.llm import router as router_module
from cognitionos_provider.llm.client import Client
from cognitionos_provider.simulator import SimulatorServer

MakeRouter = Callable[..., LLMRouter]
Serve = Callable[..., Awaitable[str]]
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic"])


async def test_each_provider_with_a_key_is_asked_for_its_models(
    router: LLMRouter, sim: SimulatorServer
) -> None:
    health = await router.health_check_all()
    assert {name: (h.reachable, h.authorised, h.error) for name, h in health.items()} == {
        "openai": (True, True, None),
        "anthropic": (True, True, None),
    }
    assert [call["path"] for call in sim.calls()] == ["/v1/models"] * 2
    assert all(call["billed"] is None for call in sim.calls())


async def test_a_provider_without_a_key_is_left_out(make_router: MakeRouter) -> None:
    assert list(await make_router(anthropic_api_key=None).health_check_all()) == ["openai"]


@PROVIDERS
@pytest.mark.parametrize(
    ("status", "authorised", "words"),
    [(401, False, "key is not accepted"), (403, False, "key is not accepted"), (500, None, "HTTP 500")],
)
async def test_what_a_provider_says_is_told_apart(
    router: LLMRouter,
    sim: SimulatorServer,
    provider: str,
    status: int,
    authorised: bool | None,
    words: str,
) -> None:
    sim.configure({"match": {"provider": provider}, "status": status})
    health = (await router.health_check_all())[provider]
    assert (health.reachable, health.authorised, health.http_status) == (True, authorised, status)
    assert words in (health.error or "")
    assert len(sim.calls()) == 2


@PROVIDERS
async def test_a_provider_that_refuses_connections_is_not_reachable(
    make_router: MakeRouter, refused: str, provider: str
) -> None:
    health = (await make_router(**{f"{provider}_base_url": refused}).health_check_all())[provider]
    assert (health.reachable, health.authorised, health.error) == (False, None, "connection refused")


@PROVIDERS
async def test_a_provider_that_hangs_is_given_up_in_time_and_does_not_hide_the_other(
    make_router: MakeRouter, serve: Serve, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    router = make_router(**{f"{provider}_base_url": await serve(None)})
    await router.warm_up()
    assert router_module._HEALTH_SECONDS == 5
    monkeypatch.setattr(router_module, "_HEALTH_SECONDS", 0.3)
    begun = time.monotonic()
    health = await router.health_check_all()
    assert time.monotonic() - begun < 1.5
    assert (health[provider].reachable, health[provider].authorised) == (False, None)
    assert "no answer within" in (health[provider].error or "")
    assert sum(each.authorised is True for each in health.values()) == 1


async def test_a_list_of_models_that_trickles_in_is_given_up_in_time(
    make_router: MakeRouter, sim: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.configure({"match": {}, "slow_body": 4})
    router = make_router()
    await router.warm_up()
    monkeypatch.setattr(router_module, "_HEALTH_SECONDS", 0.6)
    health = await router.health_check_all()
    assert ["no answer within" in (each.error or "") for each in health.values()] == [True, True]


async def test_a_check_does_not_wait_for_the_sdks_beyond_its_bound(
    make_router: MakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Client, "connect", lambda _: gate.wait(10))
    monkeypatch.setattr(router_module, "_HEALTH_SECONDS", 0.05)
    try:
        health = await make_router().health_check_all()
    finally:
        gate.set()
    assert ["still being loaded" in (each.error or "") for each in health.values()] == [True, True]


async def test_a_connection_that_can_not_be_used_says_why_and_hides_no_other(
    sim: SimulatorServer,
) -> None:
    connections = [
        Connection(name="odd", provider="nobody", api_key=SecretStr("k")),
        Connection(name="box", provider="local"),
        Connection(name="main", provider="openai", api_key=SecretStr("k"), base_url=sim.openai_base_url),
    ]
    async with LLMRouter(connections) as router:
        health = await router.health_check_all()
    assert {name: each.reachable for name, each in health.items()} == {
        "odd": False,
        "box": False,
        "main": True,
    }
    assert "No provider is known" in (health["odd"].error or "")
    assert "LLM_LOCAL_BASE_URL" in (health["box"].error or "")


async def test_the_state_of_each_breaker_that_is_not_closed_is_told(
    make_router: MakeRouter, sim: SimulatorServer
) -> None:
    sim.configure({"match": {"model": "gpt-4"}, "status": 402})
    router = make_router()
    message = {"role": "user", "content": "Hello!"}
    models = ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]
    await router.generate(LLMRequest.model_validate({"messages": [message], "models": models}))
    health = await router.health_check_all()
    assert {name: each.breakers for name, each in health.items()} == {
        "openai": {"gpt-4": "open"},
        "anthropic": {},
    }
