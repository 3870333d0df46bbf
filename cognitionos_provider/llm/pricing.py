"""What a call cost, from the price data that comes with genai-prices (no network)."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from cognitionos_provider.llm.request import Usage

if TYPE_CHECKING:
    from pydantic_ai.usage import RequestUsage

__all__ = ["price"]

# Finer than any provider's price of one token; keeps an amount within the 15 digits that a JSON number holds.
_DECIMALS = 12


def price(provider: str, model: str, usage: Usage | RequestUsage | None) -> Decimal | None:
    """Price a call in USD, or None where the model's price or the usage is unknown.

    ``usage`` is ours or pydantic-ai's, which tells cached tokens apart. A model behind a compatible base
    URL is priced by its name. The first call loads 1.6 MB of price data (about 0.2 s); later ones take
    microseconds.
    """
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    if usage is None:
        return None
    counts: PricedUsage | RequestUsage
    if isinstance(usage, Usage):
        counts = PricedUsage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
    else:
        counts = usage
    # A server that reports no usage shows as zeros: the cost is unknown then, not nothing.
    if not (counts.input_tokens or counts.output_tokens):
        return None
    try:
        total = calc_price(counts, model, provider_id=provider).total_price
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ):  # no price, or counts that contradict each other
        return None
    rounded = round(total, _DECIMALS)
    return total if rounded == total else rounded
