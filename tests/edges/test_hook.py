"""Which router a step gets, of which connections, for how long; and what Airflow's test of a connection says."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.models.connection import Connection as StoredConnection
from airflow.sdk import Connection as AirflowConnection
from airflow.sdk.execution_time import task_runner
from services import redis_url

from cognitionos_provider.config import get_llm_config
from cognitionos_provider.exceptions import ConfigurationError
from cognitionos_provider.get_provider_info import get_provider_info
from cognitionos_provider.hooks import llm as hook_module
from cognitionos_provider.hooks import trial
from cognitionos_provider.hooks.connection import _OLD, _OURS
from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm import LLMRequest
from cognitionos_provider.llm.chain import chain_of

CANARY = "sk-canary-51c9"


def request(*models):
    return LLMRequest(messages=[{"role": "user", "content": "hi"}], models=models or ("openai:gpt-4",))


async def ask(hook, *models):
    return await hook.agenerate(request(*models))


async def names(hook):
    router = await hook.aget_router()
    return [each.name for each in router.connections]


def masked(channel):
    # Airflow itself masks a connection's extra as a dictionary.
    return {value for value in channel.masked if isinstance(value, str)}


@pytest.fixture
async def hook():
    """Make hooks whose routers are closed after the test."""
    yield LLMHook
    await LLMHook().aclose()


@pytest.fixture
def refused():
    """A base URL that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@pytest.fixture
def bare(sim, monkeypatch):
    """Nothing in the environment: connections alone."""
    for name in ("API_KEY", "BASE_URL"):
        monkeypatch.delenv(f"LLM_OPENAI_{name}")
        monkeypatch.delenv(f"LLM_ANTHROPIC_{name}")
    get_llm_config.cache_clear()
    return sim


# --- where keys and addresses come from


async def test_without_a_connection_the_environment_serves(channel, sim, hook):
    assert hook().llm_conn_id == "cognitionos_llm_default"
    assert await names(hook()) == ["openai", "anthropic"]
    assert (await ask(hook())).connection == "openai"


async def test_a_connection_wins_over_the_environment_field_by_field(channel, sim, hook, monkeypatch):
    monkeypatch.setenv("LLM_OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    channel.connections["team"] = {"host": sim.openai_base_url}
    assert (await ask(hook("team"))).connection == "team"
    assert await names(hook("team")) == ["team", "anthropic"]


async def test_a_connection_of_the_earlier_form_serves_two_providers(channel, bare, hook):
    channel.connections["team"] = json.dumps(
        {
            "openai_api_key": "sk-1",
            "openai_base_url": bare.openai_base_url,
            "anthropic_api_key": "sk-ant-1",
            "anthropic_base_url": bare.anthropic_base_url,
        }
    )
    assert (await ask(hook("team"))).connection == "team/openai"
    assert (await ask(hook("team"), "anthropic:claude-haiku-5-5")).connection == "team/anthropic"


async def test_a_uri_in_the_environment_is_a_connection(bare, hook, monkeypatch):
    url = bare.openai_base_url.replace("http://", "http://:sk-1@")
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", f"cognitionos-llm://{url}?provider=local&default_model=llama")
    answer = await hook("team").agenerate(LLMRequest(messages=[{"role": "user", "content": "hi"}]))
    assert (answer.connection, answer.provider, answer.model) == ("team", "local", "llama")


async def test_the_default_models_of_the_connections_are_the_default_chain(channel, sim, hook):
    channel.connections["team"] = {
        "extra": {"default_model": "openai:gpt-4", "fallback_conn_ids": "backup, plain"}
    }
    channel.connections["backup"] = {"extra": {"provider": "anthropic", "default_model": "claude-haiku-5-5"}}
    channel.connections["plain"] = {}
    router = await hook("team").aget_router()
    plain = LLMRequest(messages=[{"role": "user", "content": "hi"}])
    chain = chain_of(plain, router.connections, router._default_models)
    assert list(map(str, chain)) == ["openai:gpt-4 over 'team'", "anthropic:claude-haiku-5-5 over 'backup'"]


async def test_a_candidate_is_tried_twice_within_a_pass_unless_told_otherwise(
    channel, sim, hook, monkeypatch
):
    monkeypatch.delenv("LLM_MAX_RETRIES")
    get_llm_config.cache_clear()
    sim.configure({"status": 503, "times": 1})
    answer = await ask(hook(), "openai:gpt-4", "anthropic:claude-haiku-5-5")
    assert [(each.provider, each.outcome) for each in answer.attempts] == [
        ("openai", "error"),
        ("openai", "ok"),
    ]


async def test_prices_and_limits_of_the_environment_reach_the_router(channel, sim, hook, monkeypatch):
    monkeypatch.setenv("LLM_PRICES", '{"openai:gpt-4": {"input": 1000000, "output": 0}}')
    monkeypatch.setenv("LLM_MAX_IN_FLIGHT", "3")
    get_llm_config.cache_clear()
    answer = await ask(hook())
    assert answer.cost_usd == answer.usage.prompt_tokens
    router = await hook().aget_router()
    assert [each.limits.max_in_flight for each in router.connections] == [3, 3]


async def test_a_price_of_the_connection_wins(channel, sim, hook):
    channel.connections["team"] = {"extra": {"prices": {"gpt-4": {"input": 1000000, "output": 0}}}}
    answer = await ask(hook("team"))
    assert answer.cost_usd == answer.usage.prompt_tokens


# --- fallback connections


async def test_fallbacks_come_in_their_order_each_once_and_before_those_that_they_name(channel, sim, hook):
    for conn_id, fallbacks in {"a": "b,c", "b": "d, a", "c": "b", "d": ""}.items():
        channel.connections[conn_id] = {"extra": {"fallback_conn_ids": fallbacks}}
    assert await names(hook("a")) == ["a", "b", "c", "d", "anthropic"]
    assert channel.asked.count("GetConnection") == 4


async def test_a_connection_that_fails_is_followed_by_its_fallback(channel, bare, hook, refused):
    channel.connections["a"] = {
        "password": "sk-a",
        "host": refused,
        "extra": {"fallback_conn_ids": ["b"]},
    }
    channel.connections["b"] = {"password": "sk-b", "host": bare.openai_base_url}
    answer = await ask(hook("a"))
    assert answer.connection == "b"
    assert {attempt.connection for attempt in answer.attempts} == {"a", "b"}


async def test_a_fallback_that_does_not_exist_is_told_with_the_connection_that_names_it(channel, sim, hook):
    channel.connections["a"] = {"extra": {"fallback_conn_ids": "b"}}
    channel.connections["b"] = {"extra": {"fallback_conn_ids": "gone"}}
    with pytest.raises(ConfigurationError, match="Connection 'b' has 'gone' among its fallback_conn_ids"):
        await hook("a").aget_router()
    channel.connections["gone"] = {}
    assert await names(hook("a")) == ["a", "b", "gone", "anthropic"]


# --- how long a router lives


async def test_steps_of_one_process_share_one_router_until_it_is_closed(channel, sim, hook):
    one = await hook().aget_router()
    assert await hook().aget_router() is one
    await hook().aclose()
    assert await hook().aget_router() is not one


async def test_two_connections_have_each_their_router(channel, sim, hook):
    channel.connections["a"] = {"password": "sk-a"}
    channel.connections["b"] = {"password": "sk-b"}
    a, b = await hook("a").aget_router(), await hook("b").aget_router()
    assert a is not b
    assert await hook("a").aget_router() is a
    assert not LLMHook._routers[asyncio.get_running_loop()].leaving


async def test_a_connection_is_read_again_when_it_is_old(channel, sim, hook, monkeypatch):
    one = await hook("team").aget_router()
    channel.connections["team"] = {"password": "sk-another-key"}
    assert await hook("team").aget_router() is one
    monkeypatch.setattr(hook_module, "CONNECTION_TTL", -1.0)
    assert await hook("team").aget_router() is not one


async def test_one_that_says_the_same_as_before_keeps_its_router(channel, sim, hook, monkeypatch):
    monkeypatch.setattr(hook_module, "CONNECTION_TTL", -1.0)
    channel.connections["team"] = {
        "password": "sk-1",
        "extra": {"prices": {"m": {"input": 1, "output": 1}}, "x": [1]},
    }
    one = await hook("team").aget_router()
    assert await hook("team").aget_router() is one
    assert channel.asked.count("GetConnection") == 2


async def test_the_router_of_a_key_that_was_changed_is_closed_once_nobody_uses_it(
    channel, sim, hook, monkeypatch
):
    monkeypatch.setattr(hook_module, "CONNECTION_TTL", -1.0)
    monkeypatch.setattr(hook_module, "RETIREMENT", 0.01)
    channel.connections["team"] = {"password": "sk-old"}
    old = await hook("team").aget_router()
    sim.configure({"latency": 0.5})
    call = asyncio.create_task(old.generate(request()))
    while not sim.calls():
        await asyncio.sleep(0.01)
    channel.connections["team"] = {"password": "sk-new"}
    new = await hook("team").aget_router()
    await asyncio.sleep(0.1)
    assert not old._closed
    assert (await call).connection == "team"
    while not old._closed:
        await asyncio.sleep(0.01)
    assert (await new.generate(request())).connection == "team"
    ours = LLMHook._routers[asyncio.get_running_loop()]
    assert [router for _, router in ours.current] == [new]
    while ours.leaving:
        await asyncio.sleep(0.01)


async def test_a_hook_that_is_closed_closes_also_the_routers_that_were_about_to_be(
    channel, sim, hook, monkeypatch
):
    monkeypatch.setattr(hook_module, "CONNECTION_TTL", -1.0)
    old = await hook("team").aget_router()
    channel.connections["team"] = {"password": "sk-new"}
    new = await hook("team").aget_router()
    await hook().aclose()
    assert (old._closed, new._closed) == (True, True)


def test_the_router_of_a_loop_that_has_ended_is_forgotten(channel, sim):
    asyncio.run(LLMHook().aget_router())
    (ended,) = LLMHook._routers
    asyncio.run(LLMHook().aget_router())
    assert ended not in LLMHook._routers


async def test_steps_that_start_together_read_the_connection_once(channel, sim, hook):
    channel.connections["team"] = {"password": CANARY}
    routers = await asyncio.gather(*(hook("team").aget_router() for _ in range(20)))
    assert len(set(map(id, routers))) == 1
    assert channel.asked.count("GetConnection") == 1


async def test_a_reader_that_is_cancelled_takes_no_other_with_it(channel, sim, hook):
    first = asyncio.create_task(hook("team").aget_router())
    second = asyncio.create_task(hook("team").aget_router())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).connections


async def test_a_connection_that_could_not_be_read_is_read_again(channel, sim, hook):
    channel.connections["team"] = {"port": 80}
    with pytest.raises(ConfigurationError, match="Connection 'team': its host must be set"):
        await hook("team").aget_router()
    channel.connections["team"] = {"password": "sk-1"}
    assert (await hook("team").aget_router()).connections[0].name == "team"


# --- what else steps are given


async def test_a_malformed_setting_of_another_part_hinders_no_step(channel, sim, hook, monkeypatch):
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    monkeypatch.setenv("API_PORT", "many")
    assert (await ask(hook())).provider == "openai"


async def test_steps_share_what_they_learn_through_redis_where_there_is_one(channel, sim, hook, monkeypatch):
    with redis_url() as url:
        host, _, rest = url.removeprefix("redis://").partition(":")
        port, _, number = rest.partition("/")
        for name, value in {"HOST": host, "PORT": port, "DB": number}.items():
            monkeypatch.setenv(f"REDIS_{name}", value)
        router = await hook().aget_router()
        assert router._shared is not None
        assert (await ask(hook())).provider == "openai"
        assert not router._shared.down
        await hook().aclose()


async def test_the_password_of_redis_is_masked(channel, sim, hook, monkeypatch):
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", "9")
    monkeypatch.setenv("REDIS_PASSWORD", f"{CANARY}/x")
    router = await hook().aget_router()
    assert {f"{CANARY}/x", f"{CANARY}%2Fx"} <= masked(channel)
    assert CANARY not in repr(router) + repr(LLMHook._read)
    # A Redis that is not there hinders no step.
    assert (await ask(hook())).provider == "openai"


async def test_no_key_is_shown_and_every_one_is_masked(channel, sim, hook, caplog):
    caplog.set_level(logging.DEBUG)
    channel.connections["team"] = {
        "password": f"{CANARY}-1",
        "extra": {"fallback_conn_ids": "old", "client_secret": f"{CANARY}-2"},
    }
    channel.connections["old"] = {"extra": {"anthropic_api_key": f"{CANARY}-3"}}
    router = await hook("team").aget_router()
    shown = repr(router) + repr(router.connections) + repr(LLMHook._read) + repr(LLMHook._routers)
    assert CANARY not in shown
    assert {f"{CANARY}-{number}" for number in (1, 2, 3)} <= masked(channel)
    await ask(hook("team"))
    assert CANARY not in caplog.text


# --- from code that is not asynchronous


def test_code_that_is_not_asynchronous_gets_an_answer_too(channel, sim):
    channel.connections["team"] = {"extra": {"default_model": "gpt-4"}}
    hook = LLMHook("team")
    for _ in range(2):
        assert hook.generate(request()).content.startswith("[simulated openai:gpt-4]")
    assert not LLMHook._routers


async def test_every_connection_is_asked_for_its_health(channel, sim, hook):
    channel.connections["team"] = {"extra": {"fallback_conn_ids": "b"}}
    channel.connections["b"] = {"password": "sk-b"}
    health = await hook("team").health_check_all()
    assert {name: each.authorised for name, each in health.items()} == {
        "team": True,
        "b": True,
        "anthropic": True,
    }


# --- Airflow's test of a connection


def test_a_key_that_is_accepted_is_told_with_the_time_it_took(channel, bare):
    channel.connections["team"] = {"password": CANARY, "host": bare.openai_base_url}
    good, text = LLMHook("team").test_connection()
    assert good
    assert text.startswith("openai: the key is accepted, ")
    assert text.endswith(" ms")
    (call,) = bare.calls()
    assert (call["path"], call["billed"]) == ("/v1/models", None)


def test_both_accounts_of_the_earlier_form_are_tested(channel, sim):
    channel.connections["team"] = {"extra": {"openai_api_key": CANARY, "anthropic_api_key": CANARY}}
    good, text = LLMHook("team").test_connection()
    assert good
    assert [part.split(",")[0] for part in text.split("; ")] == [
        "openai: the key is accepted",
        "anthropic: the key is accepted",
    ]
    sim.configure({"match": {"provider": "anthropic"}, "status": 401})
    good, text = LLMHook("team").test_connection()
    assert not good
    assert "anthropic: HTTP 401: the API key is not accepted" in text


def test_a_key_that_the_environment_adds_is_tested_but_no_other_connection(channel, sim):
    channel.connections["team"] = {"extra": {"provider": "anthropic", "fallback_conn_ids": "b, gone"}}
    channel.connections["b"] = {"password": "sk-b"}
    assert LLMHook("team").test_connection()[0]
    assert [call["provider"] for call in sim.calls()] == ["anthropic"]


def test_what_was_read_before_is_not_believed(channel, bare):
    channel.connections["team"] = {"password": "sk-1", "host": bare.openai_base_url}
    assert LLMHook("team").test_connection()[0]
    channel.connections["team"] = {"password": "sk-1", "host": "http://127.0.0.1:9"}
    assert not LLMHook("team").test_connection()[0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_told_without_it(channel, sim, status):
    sim.configure({"match": {}, "status": status, "message": f"wrong key {CANARY}"})
    channel.connections["team"] = {"password": CANARY}
    assert LLMHook("team").test_connection() == (
        False,
        f"openai: HTTP {status}: the API key is not accepted; set another one on the connection",
    )


def test_an_address_that_is_no_api_is_told(channel, sim):
    sim.configure({"match": {}, "status": 404, "message": "no such path"})
    channel.connections["team"] = {"password": CANARY}
    good, text = LLMHook("team").test_connection()
    assert not good
    assert text == "openai: HTTP 404 for the list of models; check the base URL, which must be that of an API"


def test_an_address_that_nobody_listens_at_is_told(channel, bare, refused):
    channel.connections["team"] = {"password": CANARY, "host": refused}
    good, text = LLMHook("team").test_connection()
    assert not good
    assert text.startswith("openai: connection refused; check the base URL")


def test_a_provider_that_hangs_is_given_up_in_time(channel, sim, monkeypatch):
    assert trial._ANSWER_SECONDS == 5
    monkeypatch.setattr(trial, "_ANSWER_SECONDS", 0.3)
    sim.configure({"match": {}, "latency": 4})
    channel.connections["team"] = {"password": CANARY}
    LLMHook("team").test_connection()
    begun = time.monotonic()
    good, text = LLMHook("team").test_connection()
    assert time.monotonic() - begun < 2
    assert not good
    assert text.startswith("openai: no answer within 0.3 s; check the base URL")


def test_a_look_up_that_hangs_holds_nobody_up(channel, bare, monkeypatch):
    monkeypatch.setattr(trial, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    channel.connections["team"] = {"password": CANARY, "host": "llm.invalid"}
    LLMHook("team").test_connection()
    begun = time.monotonic()
    good, text = LLMHook("team").test_connection()
    assert time.monotonic() - begun < 2
    assert not good
    assert "no answer within" in text


def test_an_sdk_that_is_not_loaded_in_time_is_told(channel, sim, monkeypatch):
    monkeypatch.setattr(trial, "_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(trial, "_LOAD_SECONDS", 0.05)
    monkeypatch.setattr("cognitionos_provider.llm.client.Client.connect", lambda _: time.sleep(1))
    channel.connections["team"] = {"password": CANARY}
    good, text = LLMHook("team").test_connection()
    assert not good
    assert "its SDK was not loaded within 0.05 s" in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no API key for openai; set it on the connection or in the environment"),
        ({"extra": {"provider": "local"}}, "has no base URL"),
        ({"extra": {"provider": "no-such-provider"}, "password": CANARY}, "No provider is known"),
        (
            {"extra": {"max_in_flight": "many"}, "password": CANARY},
            "its max_in_flight must be a whole number",
        ),
        ({"host": f"https://u:{CANARY}@h"}, "its host must be an http"),
    ],
)
def test_what_can_not_be_asked_says_what_is_missing(channel, bare, fields, words):
    channel.connections["team"] = fields
    good, text = LLMHook("team").test_connection()
    assert not good
    assert words in text
    assert CANARY not in text


def test_a_connection_that_does_not_exist_and_a_malformed_setting_are_told(channel, sim, monkeypatch):
    good, text = LLMHook("gone").test_connection()
    assert not good
    assert "gone" in text
    channel.connections["team"] = {"password": CANARY}
    monkeypatch.setenv("LLM_TIMEOUT", "never")
    get_llm_config.cache_clear()
    good, text = LLMHook("team").test_connection()
    assert not good
    assert text.startswith("LLM_TIMEOUT is 'never'")


@pytest.fixture
def no_channel(monkeypatch):
    """A process without a supervisor, such as the api-server."""
    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS", raising=False)


def test_the_form_of_airflow_can_test_a_connection_that_is_not_stored(bare, no_channel, monkeypatch):
    """As the api-server does it: under a name of its own, as a URI in the environment."""
    given = StoredConnection(
        conn_id="abcdef",
        conn_type="cognitionos_llm",
        password=CANARY,
        host=bare.openai_base_url,
        extra=json.dumps({"max_in_flight": 3, "prices": {"m": {"input": 1, "output": 1}}}),
    )
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setenv("AIRFLOW_CONN_ABCDEF", given.get_uri())
    good, text = given.test_connection()
    assert (good, text.split(",")[0]) == (True, "openai: the key is accepted")
    bare.configure({"match": {}, "status": 401})
    good, text = given.test_connection()
    assert (good, CANARY in text) == (False, False)


def test_a_worker_of_airflow_can_test_a_connection_that_it_holds(bare, no_channel):
    given = AirflowConnection(
        conn_id="held", conn_type="cognitionos_llm", password=CANARY, host=bare.openai_base_url
    )
    good, text = given.test_connection()
    assert (good, text.split(",")[0]) == (True, "openai: the key is accepted")


def test_whatever_a_library_raises_is_told_without_its_text(channel, sim, monkeypatch):
    def broken(*_):
        raise ValueError(CANARY)

    monkeypatch.setattr(LLMHook, "get_connection", broken)
    assert LLMHook("team").test_connection() == (False, "The connection can't be tested: ValueError")


async def test_a_connection_can_be_tested_where_a_loop_runs(channel, sim):
    channel.connections["team"] = {"password": CANARY}
    assert LLMHook("team").test_connection()[0]


def test_a_connection_over_which_nothing_is_free_says_that_its_key_was_not_tried(channel, sim, monkeypatch):
    monkeypatch.setattr("cognitionos_provider.llm.provider._takes_timeout", lambda _: False)
    channel.connections["team"] = {"password": CANARY, "extra": {"provider": "deepseek"}}
    assert LLMHook("team").test_connection() == (
        True,
        "deepseek: the client is ready; the key was not tried, since there is no call that costs nothing",
    )


def test_a_connection_of_a_provider_of_pydantic_ai_is_tried_too(channel, sim):
    channel.connections["team"] = {
        "password": CANARY,
        "host": sim.openai_base_url,
        "extra": {"provider": "ollama"},
    }
    good, text = LLMHook("team").test_connection()
    assert (good, text.split(",")[0]) == (True, "ollama: the key is accepted")


# --- the form


def test_the_form_has_a_field_for_all_that_is_read_and_no_code_of_ours_draws_it():
    (declared,) = get_provider_info()["connection-types"]
    assert declared["connection-type"] == LLMHook.conn_type
    assert set(declared["conn-fields"]) == _OURS - set(_OLD)
    assert not {"get_connection_form_widgets", "get_ui_field_behaviour"} & set(vars(LLMHook))


def test_the_form_satisfies_airflows_schema_of_forms():
    schema = json.loads((Path(airflow.__file__).parent / "provider.yaml.schema.json").read_text())
    jsonschema.validate(get_provider_info()["connection-types"], schema["properties"]["connection-types"])


def test_the_hook_loads_no_sdk():
    code = (
        "import sys, cognitionos_provider.hooks.llm;"
        "heavy = 'openai anthropic pydantic_ai genai_prices redis'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
