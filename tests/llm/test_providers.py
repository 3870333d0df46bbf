"""Providers beside OpenAI and Anthropic: compatible servers, those of pydantic-ai, those of other packages."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr
from services import redis_url

from cognitionos_provider.exceptions import (
    AllModelsFailedError,
    BudgetExceededError,
    ConfigurationError,
    LLMError,
    UnknownModelError,
)
from cognitionos_provider.llm import Budget, Connection, LLMRequest, LLMRouter, Price, create_llm_router
from cognitionos_provider.llm.provider import find_provider
from cognitionos_provider.simulator import SimulatorServer

Ask = Callable[..., LLMRequest]
MakeRouter = Callable[..., LLMRouter]


async def test_a_local_server_needs_a_base_url_and_no_key(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask
) -> None:
    router = make_router(local_base_url=sim.openai_base_url, openai_api_key=None, anthropic_api_key=None)
    response = await router.generate(ask("local:llama3.3:70b"))
    assert (response.provider, response.model, response.cost_usd) == ("local", "llama3.3:70b", None)
    assert (await router.health_check_all())["local"].authorised is True


async def test_without_its_base_url_it_is_skipped_with_the_way_to_set_one(
    make_router: MakeRouter, ask: Ask
) -> None:
    response = await make_router().generate(ask("local:llama3.3", "openai:gpt-4"))
    skipped, answered = response.attempts
    assert (skipped.outcome, answered.outcome) == ("skipped", "ok")
    assert "LLM_LOCAL_BASE_URL" in (skipped.message or "")


async def test_a_provider_of_pydantic_ai_is_found_by_its_name(sim: SimulatorServer, ask: Ask) -> None:
    sim.configure({"status": 500, "times": 1})
    connection = Connection(
        name="box", provider="ollama", base_url=sim.openai_base_url, api_key=SecretStr("k")
    )
    async with LLMRouter([connection], tries_per_model=1) as router:
        # Its SDK would try again by itself.
        with pytest.raises(AllModelsFailedError, match="HTTP 500"):
            await router.generate(ask("ollama:llama3.3"))
        response = await router.generate(ask("ollama:llama3.3"))
    assert (response.provider, response.connection) == ("ollama", "box")
    assert [call["client_id"] for call in sim.calls()][1] == response.attempts[0].call_id


async def test_its_key_may_be_in_the_environment_under_its_own_name(
    make_router: MakeRouter, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    with pytest.raises(AllModelsFailedError, match="DEEPSEEK_API_KEY") as caught:
        await make_router().generate(ask("deepseek:deepseek-chat"))
    assert [attempt.outcome for attempt in caught.value.attempts] == ["skipped"]


async def test_a_provider_that_needs_another_package_is_skipped_and_says_which(
    make_router: MakeRouter, ask: Ask
) -> None:
    response = await make_router().generate(ask("groq:llama-3", "openai:gpt-4"))
    assert "groq" in (response.attempts[0].message or "")
    assert response.provider == "openai"


async def test_a_provider_that_nobody_knows_is_refused_before_anything_is_sent(
    router: LLMRouter, sim: SimulatorServer, ask: Ask
) -> None:
    with pytest.raises(UnknownModelError, match=r"nobody:.*cognitionos\.llm_providers"):
        await router.generate(ask("openai:gpt-4", "nobody:at-home"))
    assert sim.calls() == []


PACKAGE = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "acme-llm"
        version = "1.0"
        [project.entry-points."cognitionos.llm_providers"]
        acme = "acme_llm:ACME"
        broken = "acme_llm:missing"
        odd = "acme_llm:os"
        """,
    "acme_llm.py": """
        import os

        from cognitionos_provider.llm import LLMProvider, Opened

        def open_acme(connection, http):
            from openai import AsyncOpenAI
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider

            client = AsyncOpenAI(
                api_key=connection.api_key.get_secret_value(),
                base_url=connection.options["url"],
                max_retries=0,
                http_client=http,
            )
            provider = OpenAIProvider(openai_client=client)
            return Opened(model=lambda name: OpenAIChatModel(f"acme-{name}", provider=provider))

        ACME = LLMProvider(open=open_acme)
        """,
}
PROGRAM = """
import asyncio, sys
from cognitionos_provider.exceptions import AllModelsFailedError
from cognitionos_provider.llm import Connection, LLMRequest, LLMRouter

async def main():
    acme = Connection(name="ours", provider="acme", api_key="k", options={"url": sys.argv[1]})
    async with LLMRouter([acme, Connection(name="keyless", provider="acme")]) as router:
        request = LLMRequest(messages=[{"role": "user", "content": "Hello!"}], models=["acme:one"])
        response = await router.generate(request)
        print(response.provider, response.connection, response.content)
        for name in ("broken:x", "odd:x"):
            try:
                await router.generate(request.model_copy(update={"models": (name,)}))
            except AllModelsFailedError as error:
                print(error)

asyncio.run(main())
"""


def test_another_package_adds_a_provider_by_an_entry_point(sim: SimulatorServer, tmp_path: Path) -> None:
    source, target = tmp_path / "acme", tmp_path / "installed"
    source.mkdir()
    for name, text in PACKAGE.items():
        (source / name).write_text(textwrap.dedent(text))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run([*pip, *flags], check=True, capture_output=True, text=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, sim.openai_base_url],
        env={"PYTHONPATH": str(target), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answered, broken, odd = done.stdout.splitlines()
    assert answered.startswith("acme ours [simulated openai:acme-one]")
    assert "'broken' can't be loaded from acme_llm:missing" in broken
    assert "'odd': acme_llm:os is no LLMProvider" in odd
    assert [call["model"] for call in sim.calls()] == ["acme-one"]


def test_a_provider_is_looked_up_among_ours_first() -> None:
    assert find_provider("openai").base_url == "https://api.openai.com/v1"
    assert find_provider("local").needs_key is False


def test_two_connections_of_one_name_are_refused() -> None:
    same = Connection(name="main", provider="openai")
    with pytest.raises(ConfigurationError, match="'main'"):
        LLMRouter([same, same])


async def test_a_second_account_takes_over_from_the_first(sim: SimulatorServer, ask: Ask) -> None:
    sim.configure({"status": 402, "times": 1})
    main, spare = (
        Connection(name=name, provider="openai", api_key=SecretStr("k"), base_url=sim.openai_base_url)
        for name in ("main", "spare")
    )
    async with LLMRouter([main, spare]) as router:
        response = await router.generate(ask("gpt-4"))
        again = await router.generate(ask("gpt-4"))
    assert [attempt.connection for attempt in response.attempts] == ["main", "spare"]
    # The breaker of the first account's model is open: its quota is used up.
    assert [(attempt.connection, attempt.outcome) for attempt in again.attempts] == [
        ("main", "skipped"),
        ("spare", "ok"),
    ]


async def test_a_breaker_that_opened_for_a_wrong_key_does_not_hold_for_the_right_one(
    sim: SimulatorServer, ask: Ask
) -> None:
    with redis_url() as url:
        sim.configure({"status": 401, "times": 1})
        for key, outcomes in (("wrong", ["error"]), ("wrong", ["skipped"]), ("right", ["ok"])):
            router = create_llm_router(key, openai_base_url=sim.openai_base_url, redis_url=url)
            async with router:
                try:
                    attempts = (await router.generate(ask("gpt-4", timeout_seconds=1))).attempts
                except LLMError as error:
                    attempts = error.attempts
            assert [attempt.outcome for attempt in attempts] == outcomes


async def test_an_answer_whose_usage_is_not_told_costs_what_it_can_have_cost_under_a_budget(
    sim: SimulatorServer, ask: Ask
) -> None:
    sim.configure({"usage": {"input_tokens": 0, "output_tokens": 0}})
    price = Price.model_validate({"input": 30, "output": 60})
    box = Connection(name="box", provider="local", base_url=sim.openai_base_url, prices={"m": price})
    budget = Budget("execution/{1}", Decimal("0.2"), "the run's budget")
    request = ask("local:m", max_tokens=1000)
    async with LLMRouter([box]) as router:
        answered = [await router.generate(request, budgets=[budget]) for _ in range(2)]
        # At most $0.06 for the answer, and some for the input: a third call could exceed $0.20.
        with pytest.raises(BudgetExceededError):
            await router.generate(request, budgets=[budget])
    assert all(each.attempts[0].max_cost_usd for each in answered)


async def test_the_cache_does_not_answer_for_another_model_or_account(sim: SimulatorServer) -> None:
    message = {"role": "user", "content": "Hello!"}
    request = LLMRequest.model_validate({"messages": [message], "temperature": 0, "cache_ttl_seconds": 60})
    with redis_url() as url:
        for defaults, key, source in (
            ("openai:gpt-4", "one", "provider"),
            ("openai:gpt-4", "one", "cache"),
            ("openai:gpt-4o", "one", "provider"),
            ("openai:gpt-4", "two", "provider"),
        ):
            router = create_llm_router(
                key, openai_base_url=sim.openai_base_url, redis_url=url, default_models=[defaults]
            )
            async with router:
                assert (await router.generate(request)).source == source


async def test_names_that_nobody_serves_do_not_pile_up(make_router: MakeRouter, ask: Ask) -> None:
    router = make_router()
    for number in range(20):
        with pytest.raises(UnknownModelError):
            await router.generate(ask(f"nobody{number}:x"))
    assert len(router._clients) == len(router.connections)
