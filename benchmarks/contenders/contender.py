"""What a contender has to be able to do, and what all of them are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FALLBACK_MODEL", "PRIMARY_MODEL", "TEXT", "Contender", "Route"]

PRIMARY_MODEL = "gpt-4"
FALLBACK_MODEL = "claude-3-haiku-20240307"
TEXT = "Summarise this ticket in one sentence. " + "The invoice of March was charged twice to my card. " * 10


@dataclass(frozen=True)
class Route:
    """Where a call goes: first to the primary (OpenAI Chat Completions), then to the fallback (Anthropic Messages).

    Both are base URLs as the SDKs take them: with ``/v1`` for OpenAI, without for Anthropic. ``primary`` is
    None for calls that go to the fallback alone. ``attempt_seconds`` bounds one attempt; None: the contender's
    own default.
    """

    fallback: str
    primary: str | None = None
    attempt_seconds: float | None = None


class Contender(Protocol):
    """A way to call a language model.

    ``packages`` are the distributions whose versions are reported; ``settings`` say in words what is set beside
    the defaults.
    """

    packages: Sequence[str]
    settings: Sequence[str]

    async def open(self, route: Route) -> None:
        """Load what is to be loaded and make a client for the route; no call is made yet."""

    async def ask(self, text: str) -> str:
        """Put the text to the route's models as a user's message; return the name of the model that answered."""

    async def aclose(self) -> None:
        """Close what ``open`` made."""
