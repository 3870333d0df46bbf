"""What goes into a router and what comes out: a request, its response, and the record of each attempt.

Times are seconds unless a name says milliseconds; money is USD as :class:`~decimal.Decimal` in Python and
a plain number in JSON; tokens are counted as the provider counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer

from cognitionos_provider.llm.policy import Action, Fault

__all__ = ["USD", "Attempt", "LLMRequest", "LLMResponse", "Message", "Retry", "Usage"]

# pydantic reads a JSON number back through its shortest text, so a price of at most 15 digits (pricing.py
# rounds to 12 decimals) makes the round trip exactly.
USD = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]
"""An amount in USD: exact in Python, a number in JSON."""


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Retry(BaseModel):
    """How often and how slowly the whole model chain is tried again (API.md, a step's ``retry``).

    ``max_attempts`` counts passes over the chain, the first one included. Before pass ``n + 1`` the
    router waits ``backoff_seconds * backoff_multiplier ** (n - 1)``, at most ``max_backoff_seconds``, or
    as long as the providers asked for if that is longer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(default=3, strict=True, ge=1, le=20)
    backoff_seconds: float = Field(default=1, strict=True, ge=0, le=86_400, allow_inf_nan=False)
    backoff_multiplier: float = Field(default=2, strict=True, ge=1, le=1_000, allow_inf_nan=False)
    max_backoff_seconds: float = Field(default=60, strict=True, ge=0, le=86_400, allow_inf_nan=False)


class LLMRequest(BaseModel):
    """What to ask, whom, and for how long.

    ``models`` is the chain, asked in order; it wins over ``model``. With ``model`` alone, the default
    model of each other provider that has a key follows as the fallback; with neither, the router's
    default chain is asked. A name is ``provider:model`` or a bare name whose provider is known
    (``gpt-4``, ``claude-3-haiku-20240307``).

    ``timeout_seconds`` is the deadline of the whole call: all candidates, passes and waits. ``retry`` is
    None for one pass. ``policy`` changes what an error class leads to (``policy.py``).

    With an ``output_schema`` (JSON Schema, of type object) the answer is an object that satisfies it.
    ``stream`` reads the answer as it is made, for connections that are cut when they are silent for long.

    ``max_cost_usd`` is the most that one call to a provider may cost. Under it or under a budget,
    ``unpriced`` says whether a model without a known price may be asked, and an answer has at most
    ``max_tokens`` or, where that is None, 4,096 tokens. ``cache_ttl_seconds`` lets an equal request be
    answered from the cache, if ``temperature`` is 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: list[Message] = Field(min_length=1)
    model: str | None = Field(default=None, min_length=1)
    models: tuple[str, ...] = ()
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    timeout_seconds: float = Field(default=300, gt=0, allow_inf_nan=False)
    retry: Retry | None = None
    policy: Mapping[Fault, Action] = {}
    output_schema: dict[str, JsonValue] | None = None
    stream: bool = False
    max_cost_usd: Decimal | None = Field(default=None, gt=0, allow_inf_nan=False)
    unpriced: Literal["refuse", "allow"] = "refuse"
    cache_ttl_seconds: float = Field(default=0, ge=0, allow_inf_nan=False)


class Usage(BaseModel):
    """Tokens of one call, as the provider counted them; ``prompt_tokens`` holds cached ones, too."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Attempt(BaseModel):
    """One call to a provider, or one that was not made (``skipped``), and why.

    ``call_id`` is what the provider was sent as ``X-Client-Request-Id``. ``usage`` and ``cost_usd`` are None
    where unknown, never 0. ``retry_after`` is what the provider asked for, in seconds. ``possibly_billed``
    says that the request was sent and its answer got lost, so that the provider may charge for something
    that is not counted in ``cost_usd``: at most ``max_cost_usd``, where that can be told. ``message`` is
    short and holds no key.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    connection: str | None = None
    call_id: str | None = None
    outcome: Literal["ok", "error", "skipped"]
    error_class: str | None = None
    http_status: int | None = None
    latency_ms: int = 0
    usage: Usage | None = None
    cost_usd: USD | None = None
    retry_after: float | None = None
    possibly_billed: bool = False
    max_cost_usd: USD | None = None
    message: str | None = None


class LLMResponse(BaseModel):
    """The answer, who gave it, and what it took.

    ``usage`` and ``cost_usd`` are those of the answer itself; ``attempts`` holds what other attempts
    cost. ``latency_ms`` is that of the whole call, waits and failed attempts included. ``finish_reason``
    is ``stop`` for a complete answer and ``length`` for one that was cut off at ``max_tokens``. ``output``
    is the object that the request's ``output_schema`` asked for. ``source`` tells whether a provider was
    asked, or the answer was there already: in the journal of this run, or in the cache.
    """

    model_config = ConfigDict(frozen=True)

    content: str
    provider: str
    model: str
    usage: Usage | None
    latency_ms: int
    cost_usd: USD | None
    connection: str | None = None
    finish_reason: str | None = None
    output: JsonValue = None
    source: Literal["provider", "journal", "cache"] = "provider"
    attempts: list[Attempt]
