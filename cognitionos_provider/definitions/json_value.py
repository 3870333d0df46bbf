"""JSON values as a definition may hold them: numbers that can be kept, bounded depth, storable text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from cognitionos_provider.definitions.violation import (
    MAX_VIOLATIONS,
    Loc,
    Violation,
    as_validation_error,
    refusal,
)

__all__ = ["MAX_DEPTH", "STORABLE", "JsonObject", "Text", "json_violations", "strings_in", "text_problem"]

MAX_DEPTH = 64
# MessagePack, the format of Airflow's channel to its triggerer, has no larger ones; there one of them would
# end the process, and again after each restart.
_TOO_LARGE = (
    "The integer is outside of -2**63 to 2**63-1 (64 bits are what Airflow carries); use a text or a float"
)
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1


def text_problem(text: str) -> str | None:
    """Say what keeps PostgreSQL from storing ``text``, or None.

    JSONB and text columns refuse NUL, and half of a surrogate pair has no UTF-8 form.
    """
    if "\0" in text:
        return "holds a NUL character, which can't be stored; remove it"
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return "holds half of a surrogate pair, which is no character; remove it"
    return None


def json_violations(value: object) -> list[Violation]:
    """List what makes ``value`` no JSON value that can be kept: at most 50 places, in document order."""
    return [violation for violation, _ in zip(_violations(value), range(MAX_VIOLATIONS), strict=False)]


def _violations(root: object) -> Iterator[Violation]:
    stack: list[tuple[Loc, object]] = [((), root)]
    while stack:
        loc, value = stack.pop()
        if value is None or isinstance(value, bool):
            continue
        if isinstance(value, int):
            # Not quoted: Python refuses to write out an integer of thousands of digits.
            if not _MIN_INTEGER <= value <= _MAX_INTEGER:
                yield Violation(
                    loc,
                    _TOO_LARGE,
                    "json",
                )
        elif isinstance(value, str):
            if problem := text_problem(value):
                yield Violation(loc, f"The text {problem}", "json")
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield Violation(
                    loc, "NaN and Infinity are no JSON numbers; use null or a text instead", "json"
                )
        elif not isinstance(value, dict | list):
            yield Violation(loc, f"A value of type {type(value).__name__} is no JSON value", "json")
        elif len(loc) >= MAX_DEPTH:
            yield Violation(loc, f"The value is nested more than {MAX_DEPTH} levels deep", "json")
        elif isinstance(value, list):
            stack.extend(((*loc, index), value[index]) for index in range(len(value) - 1, -1, -1))
        else:
            for key in value:
                if not isinstance(key, str):
                    yield Violation(
                        loc, f"The key {key!r} is no text, as the keys of a JSON object must be", "json"
                    )
                elif problem := text_problem(key):
                    yield Violation(loc, f"The key {key!r} {problem}", "json")
            stack.extend(((*loc, str(key)), value[key]) for key in reversed(value))


def strings_in(value: JsonValue, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """Yield the path and text of each string value (not key) in ``value``, in document order."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings_in(item, (*loc, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(item, (*loc, key))


def _bounded_object(value: object) -> object:
    if not isinstance(value, dict):
        raise refusal("json_object", "Must be a JSON object")
    if violations := json_violations(value):
        raise as_validation_error("JSON", violations)
    return value


def _storable(text: str) -> str:
    if problem := text_problem(text):
        raise refusal("text", f"The text {problem}")
    return text


# pydantic's JsonValue takes NaN, and has no limit of depth of its own that a message could name.
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_bounded_object)]
"""A JSON object of at most 64 levels with finite numbers and integers of 64 bits."""

STORABLE = AfterValidator(_storable)
"""For a text field: refuses what a database can't hold. Limits of length stand before it."""

Text = Annotated[str, Field(strict=True), STORABLE]
"""Text that a database can hold."""
