"""Where keys and addresses come from."""

import asyncio
import json

from cognitionos_provider.get_provider_info import get_provider_info
from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm import LLMRequest


async def ask(hook):
    router = await hook.aget_router()
    return await router.generate(
        LLMRequest(messages=[{"role": "user", "content": "hi"}], models=("openai:gpt-4",))
    )


async def test_without_a_connection_the_environment_serves(channel, sim):
    hook = LLMHook()
    assert hook.llm_conn_id == "cognitionos_llm_default"
    assert (await ask(hook)).provider == "openai"
    await hook.aclose()


async def test_a_connection_wins_over_the_environment_field_by_field(channel, sim, monkeypatch):
    monkeypatch.setenv("LLM_OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    channel.connections["team"] = json.dumps({"openai_base_url": sim.openai_base_url})
    hook = LLMHook("team")
    assert (await ask(hook)).provider == "openai"
    await hook.aclose()


async def test_steps_of_one_process_share_one_router_until_it_is_closed(channel, sim):
    one = await LLMHook().aget_router()
    assert await LLMHook().aget_router() is one
    await LLMHook().aclose()
    assert await LLMHook().aget_router() is not one
    await LLMHook().aclose()


async def test_a_connection_is_read_again_when_it_is_old(channel, sim, monkeypatch):
    one = await LLMHook("team").aget_router()
    channel.connections["team"] = json.dumps({"openai_api_key": "sk-another-key"})
    assert await LLMHook("team").aget_router() is one
    monkeypatch.setattr("cognitionos_provider.hooks.llm.CONNECTION_TTL", -1.0)
    assert await LLMHook("team").aget_router() is not one
    await LLMHook().aclose()


async def test_no_key_is_shown(channel, sim):
    channel.connections["team"] = json.dumps(
        {"openai_api_key": "sk-canary-1", "anthropic_api_key": "sk-ant-canary-2"}
    )
    hook = LLMHook("team")
    shown = repr(await hook.aget_router()) + repr(hook._read) + repr(hook._routers)
    assert "canary" not in shown
    await hook.aclose()


def test_the_connection_form_says_where_the_keys_go():
    behaviour = LLMHook.get_ui_field_behaviour()
    assert "openai_api_key" in behaviour["placeholders"]["extra"]
    (declared,) = get_provider_info()["connection-types"]
    assert declared["connection-type"] == LLMHook.conn_type


async def test_a_malformed_setting_of_another_part_hinders_no_step(channel, sim, monkeypatch):
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    assert (await ask(LLMHook())).provider == "openai"
    await LLMHook().aclose()


async def test_steps_that_start_together_read_the_connection_once(channel, sim):
    channel.connections["team"] = json.dumps({"openai_api_key": "sk-canary-3"})
    routers = await asyncio.gather(*(LLMHook("team").aget_router() for _ in range(20)))
    assert len(set(map(id, routers))) == 1
    assert channel.asked.count("GetConnection") == 1
    assert "sk-canary-3" in channel.masked
    await LLMHook().aclose()
