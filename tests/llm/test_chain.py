from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from cognitionos_provider.exceptions import UnknownModelError
from cognitionos_provider.llm import DEFAULT_MODELS, Connection, LLMRequest, Usage
from cognitionos_provider.llm.chain import chain_of, split_name
from cognitionos_provider.llm.pricing import price

BOTH = ("openai", "anthropic")


def chain(configured: tuple[str, ...] = BOTH, **fields: Any) -> list[str]:
    request = LLMRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})
    connections = [Connection(name=name, provider=name, api_key=SecretStr("k")) for name in configured]
    return [str(each) for each in chain_of(request, connections, DEFAULT_MODELS)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4", "openai:gpt-4"),
        ("chatgpt-4o-latest", "openai:chatgpt-4o-latest"),
        ("o1", "openai:o1"),
        ("o3-mini", "openai:o3-mini"),
        ("o4-mini", "openai:o4-mini"),
        ("ft:gpt-4o:acme::1", "openai:ft:gpt-4o:acme::1"),
        ("claude-3-haiku-20240307", "anthropic:claude-3-haiku-20240307"),
        ("openai:gpt-4", "openai:gpt-4"),
        ("openai:llama3:8b", "openai:llama3:8b"),
        ("anthropic:anything", "anthropic:anything"),
        ("gemini-3-pro", "google:gemini-3-pro"),
        ("local:llama3.3", "local:llama3.3"),
        ("groq:llama", "groq:llama"),
    ],
)
def test_a_name_finds_its_provider(name: str, found: str) -> None:
    assert ":".join(split_name(name)) == found


@pytest.mark.parametrize("name", ["llama3", "openai:", ":gpt-4", "o2", ""])
def test_a_name_without_a_provider_is_refused_with_the_way_to_write_it(name: str) -> None:
    with pytest.raises(
        UnknownModelError, match=r"No provider .*'<provider>:<model>'.*'openai:gpt-4'"
    ) as caught:
        split_name(name)
    assert repr(name) in str(caught.value)


def test_models_win_over_model_and_are_asked_in_order_each_once() -> None:
    names = ("claude-x", "gpt-4", "openai:gpt-4")
    assert chain(model="gpt-4o", models=names) == ["anthropic:claude-x", "openai:gpt-4"]


def test_one_model_falls_back_to_the_default_of_the_other_provider_that_has_a_key() -> None:
    assert chain(model="gpt-4") == ["openai:gpt-4", DEFAULT_MODELS[1]]
    assert chain(model="claude-x") == ["anthropic:claude-x", DEFAULT_MODELS[0]]
    assert chain(("openai",), model="gpt-4") == ["openai:gpt-4"]


def test_without_a_name_the_default_chain_is_asked() -> None:
    assert chain() == list(DEFAULT_MODELS)


def test_a_model_is_asked_over_each_connection_of_its_provider_in_turn() -> None:
    connections = [
        Connection(name="main", provider="openai", default_model="gpt-4"),
        Connection(name="claude", provider="anthropic", default_model="claude-x"),
        Connection(name="spare", provider="openai"),
    ]
    message = {"role": "user", "content": "x"}
    request = LLMRequest.model_validate({"messages": [message], "models": ["gpt-4", "mistral:m"]})
    found = chain_of(request, connections, DEFAULT_MODELS)
    assert [str(each) for each in found] == [
        "openai:gpt-4 over 'main'",
        "openai:gpt-4 over 'spare'",
        "mistral:m",
    ]
    request = LLMRequest.model_validate({"messages": [message]})
    found = chain_of(request, connections, DEFAULT_MODELS)
    assert [(each.connection, each.model) for each in found] == [("main", "gpt-4"), ("claude", "claude-x")]


def test_a_connection_that_has_the_name_of_another_provider_is_not_taken_for_it() -> None:
    connections = [Connection(name="anthropic", provider="openai")]
    request = LLMRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "model": "claude-x"})
    (found,) = chain_of(request, connections, DEFAULT_MODELS)
    assert (found.provider, found.connection) == ("anthropic", "anthropic/environment")


def test_each_default_model_has_a_price() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    assert all(price(*split_name(name), usage) for name in DEFAULT_MODELS)
