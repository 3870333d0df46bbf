from __future__ import annotations

from typing import Any

import pytest

from cognitionos_provider.exceptions import UnknownModelError
from cognitionos_provider.llm import DEFAULT_MODELS, LLMRequest, Usage
from cognitionos_provider.llm.chain import candidate, chain_of
from cognitionos_provider.llm.pricing import price

BOTH = ("openai", "anthropic")


def chain(configured: tuple[str, ...] = BOTH, **fields: Any) -> list[str]:
    request = LLMRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})
    return [str(each) for each in chain_of(request, DEFAULT_MODELS, configured)]


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
    ],
)
def test_a_name_finds_its_provider(name: str, found: str) -> None:
    assert str(candidate(name)) == found


@pytest.mark.parametrize("name", ["llama3", "google:gemini", "openai:", "o2", ""])
def test_a_name_without_a_provider_is_refused_with_the_way_to_write_it(name: str) -> None:
    with pytest.raises(
        UnknownModelError, match=r"No provider .*'openai:<model>' or 'anthropic:<model>'"
    ) as caught:
        candidate(name)
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


def test_each_default_model_has_a_price() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    assert all(price(*candidate(name), usage) for name in DEFAULT_MODELS)
