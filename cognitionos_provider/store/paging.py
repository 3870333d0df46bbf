"""Pages of a list that stay right while rows are added: a cursor names the last row that was given."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Self, TypeVar

__all__ = ["Cursor", "Page"]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a row in a list that is ordered by time, newest first, then by a unique key."""

    at: datetime
    key: str

    def encode(self) -> str:
        """Return the cursor as the opaque text that a caller hands back."""
        text = json.dumps([self.at.isoformat(), self.key])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a cursor.

        :raises ValueError: this is no cursor that :meth:`encode` made.
        """
        try:
            at, key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            cursor = cls(datetime.fromisoformat(at).astimezone(UTC), key)
            if cursor.encode() == text.rstrip("=") and "\0" not in key and key.encode():
                return cursor
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
            pass
        raise ValueError(f"{text[:100]!r} is no cursor of this list; use 'next_cursor' of the page before")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list: its rows, how many there are in all, and where the next part begins."""

    rows: Sequence[T]
    total: int
    next_cursor: str | None

    @classmethod
    def cut(cls, rows: Sequence[T], limit: int, total: int, place: Callable[[T], Cursor]) -> Page[T]:
        """Make a page of at most ``limit`` rows from a query that asked for one more than that."""
        more = len(rows) > limit
        kept = rows[:limit]
        return cls(kept, total, place(kept[-1]).encode() if more and kept else None)
