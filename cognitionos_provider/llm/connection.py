"""An account at a provider: where it is, its key, what may be asked of it, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

__all__ = ["Connection", "Limits", "Price"]

_Limit = Annotated[int, Field(strict=True, ge=1)] | None


class Limits(BaseModel):
    """What may be asked of one model over one connection. None: no limit.

    They hold for everybody who shares a Redis, and for one process where there is none. A call that they don't
    let through yet waits; it never fails of them while its deadline allows the wait.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_in_flight: _Limit = Field(default=None, description="calls at the same time")
    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = Field(default=None, description="input and output tokens together")


class Price(BaseModel):
    """What a model costs, in USD per million tokens; wins over the price data that comes with the package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Connection(BaseModel):
    """One account at one provider.

    ``name`` tells it from others (of an Airflow connection, its id): attempts, breaker and limits carry it.
    ``provider`` is ``openai``, ``anthropic``, ``local`` (any server that speaks OpenAI Chat Completions),
    a provider of pydantic-ai, or one that another package adds. ``api_key`` is None where it is not known: the
    connection is then skipped, unless its provider needs none. ``base_url`` is None for the provider's own.
    ``default_model`` is asked when a request names no model. ``prices`` are by model name.
    ``options`` are for providers of other packages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(min_length=1)
    provider: str = Field(min_length=1)
    api_key: SecretStr | None = None
    base_url: str | None = Field(default=None, repr=False)
    default_model: str | None = None
    limits: Limits = Limits()
    prices: Mapping[str, Price] = {}
    options: Mapping[str, Any] = Field(default={}, repr=False)
