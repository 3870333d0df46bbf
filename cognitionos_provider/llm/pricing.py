"""What a call cost, and what it can cost at the most.

Prices are those that somebody set for the model, else those that come with genai-prices (no network).
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from cognitionos_provider.llm.connection import Price
from cognitionos_provider.llm.request import Message, Usage

if TYPE_CHECKING:
    from pydantic_ai.usage import RequestUsage

__all__ = ["input_bound", "price"]

# Finer than any provider's price of one token; keeps an amount within the 15 digits that a JSON number holds.
_DECIMALS = 12
_MILLION = Decimal(1_000_000)

# Tokens around a message that are not its text: roles, separators, the start of the answer. OpenAI's cookbook
# counts three for each message and three for the answer; a tool or an output format adds a few hundred.
_AROUND_MESSAGE = 16
_AROUND_REQUEST = 512


def price(
    provider: str, model: str, usage: Usage | RequestUsage | None, own: Price | None = None
) -> Decimal | None:
    """Price a call in USD, or None where the model's price or the usage is unknown.

    ``own`` is a price that wins over the price data. ``usage`` is ours or pydantic-ai's, which tells cached
    tokens apart. A model behind a compatible base URL is priced by its name. The first call loads 1.6 MB of
    price data (about 0.2 s); later ones take microseconds.
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
    if own is not None:
        tokens = int(counts.input_tokens or 0), int(counts.output_tokens or 0)
        return _rounded((own.input * tokens[0] + own.output * tokens[1]) / _MILLION)
    try:
        return _rounded(calc_price(counts, model, provider_id=provider).total_price)
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ):  # no price, or counts that contradict each other
        return None


def _rounded(total: Decimal) -> Decimal:
    rounded = round(total, _DECIMALS)
    return total if rounded == total else rounded


def input_bound(messages: Iterable[Message], schema_bytes: int = 0) -> int:
    """Return a number of tokens that the input of a request can't exceed.

    No tokenizer makes more tokens of a text than it has bytes in UTF-8: byte-level encodings fall back to one
    token a byte, and merge from there.
    """
    texts = sum(
        len(message.content.encode("utf-8", "surrogatepass")) + _AROUND_MESSAGE for message in messages
    )
    # A schema may be sent twice: as an output format, and as words for a model that needs them.
    return texts + 2 * schema_bytes + _AROUND_REQUEST
