from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from cognitionos_provider.llm import Attempt, LLMRequest, Message, Retry, Usage


def test_messages_may_be_plain_dicts_as_in_the_specification() -> None:
    request = LLMRequest(
        messages=[
            {"role": "system", "content": "You are a helpful assistant"},
            {"role": "user", "content": "Hello!"},
        ],  # type: ignore[list-item]
        model="gpt-4",
        temperature=0.7,
    )
    assert request.messages[1] == Message(role="user", content="Hello!")
    assert request.models == ()


def test_a_request_can_not_be_changed() -> None:
    request = LLMRequest(messages=[Message(role="user", content="x")])
    with pytest.raises(ValidationError):
        request.model = "gpt-4"  # type: ignore[misc]


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"temperature": 3},
        {"max_tokens": 0},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"modle": "gpt-4"},
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LLMRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **bad})


def test_the_retry_block_has_the_defaults_and_bounds_of_the_contract() -> None:
    assert Retry().model_dump() == {
        "max_attempts": 3,
        "backoff_seconds": 1,
        "backoff_multiplier": 2,
        "max_backoff_seconds": 60,
    }
    for bad in (
        {"max_attempts": 0},
        {"max_attempts": 21},
        {"backoff_seconds": -1},
        {"backoff_multiplier": 0.5},
        {"max_backoff_seconds": -1},
        {"jitter": True},
    ):
        with pytest.raises(ValidationError):
            Retry.model_validate(bad)


@pytest.mark.parametrize("cost", ["0.0000066", "123.456789012345", "0.000000000001", "0"])
def test_an_attempt_survives_json_with_its_cost_exact_and_shown_as_a_number(cost: str) -> None:
    attempt = Attempt(
        provider="openai",
        model="gpt-4",
        outcome="ok",
        latency_ms=12,
        usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
        cost_usd=Decimal(cost),
    )
    assert isinstance(attempt.model_dump(mode="json")["cost_usd"], float)
    assert attempt.model_dump()["cost_usd"] == Decimal(cost)
    assert Attempt.model_validate_json(attempt.model_dump_json()) == attempt


def test_an_unknown_cost_is_null_in_json() -> None:
    assert (
        Attempt(provider="openai", model="x", outcome="skipped").model_dump(mode="json")["cost_usd"] is None
    )
