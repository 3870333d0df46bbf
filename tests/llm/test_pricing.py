from __future__ import annotations

from decimal import Decimal

from cognitionos_provider.llm import Usage
from cognitionos_provider.llm.pricing import price


def usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def test_a_known_model_has_an_exact_price() -> None:
    # 30 and 60 USD per million tokens.
    assert price("openai", "gpt-4", usage(1_000, 500)) == Decimal("0.06")
    assert price("anthropic", "claude-3-haiku-20240307", usage(1_000, 500)) == Decimal("0.000875")


def test_an_unknown_model_has_no_price_rather_than_none_to_pay() -> None:
    assert price("openai", "gpt-99", usage(1_000, 500)) is None
    assert price("nobody", "gpt-4", usage(1_000, 500)) is None


def test_an_unknown_usage_has_no_price() -> None:
    assert price("openai", "gpt-4", None) is None
    assert price("openai", "gpt-4", usage(0, 0)) is None


def test_cached_tokens_are_priced_as_such() -> None:
    from pydantic_ai.usage import RequestUsage

    cached = price("openai", "gpt-4o", RequestUsage(input_tokens=1_000, cache_read_tokens=1_000))
    assert cached == Decimal("0.00125")
    assert price("openai", "gpt-4o", usage(1_000, 0)) == Decimal("0.0025")


def test_counts_that_contradict_each_other_have_no_price() -> None:
    from pydantic_ai.usage import RequestUsage

    assert price("openai", "gpt-4o", RequestUsage(input_tokens=1, cache_read_tokens=1_000)) is None


def test_a_price_has_at_most_twelve_decimals_so_that_a_json_number_holds_it() -> None:
    cost = price("anthropic", "claude-3-haiku-20240307", usage(1, 1))
    assert cost is not None
    exponent = cost.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -12
