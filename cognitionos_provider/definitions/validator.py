"""The draft 2020-12 validator for schemas and values that strangers send: what it costs has a bound."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

__all__ = [
    "FAULTS",
    "UncheckableError",
    "bounded",
    "bounded_validator",
    "check_time",
    "pattern_problem",
    "shorten",
]

_MAX_MESSAGE = 300
_PATTERN_SECONDS = 1.0
_SECONDS = 5.0
_MAX_UNROLLED = 20_000
_MAX_UNEVALUATED = 1_000

FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""What jsonschema and referencing raise, besides their own errors, on a schema that makes no sense."""

_Keyword = Callable[[Any, Any, Any, Any], Iterator["ValidationError"] | None]

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<count>\d+)[^{}]*\}|.", re.DOTALL)
# Neither is a part of ECMA 262, and both could hide a bracket from _TOKEN.
_COMMENT = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?:#|[A-Za-z0-9]*x)")


class UncheckableError(Exception):
    """The check was given up: no ValidationError, which ``not`` and ``anyOf`` would take for an answer."""


class _Budget:
    """Seconds of this thread's processor that one check has left, so that a busy machine refuses nothing."""

    def __init__(self) -> None:
        self.end = time.thread_time() + _SECONDS
        self.patterns = _PATTERN_SECONDS


_current: ContextVar[_Budget] = ContextVar("schema_budget")


@contextmanager
def bounded() -> Iterator[None]:
    """Bound the block: 5 s of work in all, 1 s of it in regular expressions; then UncheckableError."""
    token = _current.set(_Budget())
    try:
        yield
    finally:
        _current.reset(token)


def check_time() -> None:
    """Raise UncheckableError when the time of the ``bounded`` block around the caller is used up."""
    if time.thread_time() > _current.get().end:
        msg = f"Can't be checked within {_SECONDS:g} s; make the schema or the value smaller"
        raise UncheckableError(msg)


@cache
def bounded_validator() -> type[Draft202012Validator]:
    """Return the validator class, to be used inside ``bounded`` only.

    Python's own ``re`` holds the interpreter while it backtracks: one input against ``^(a+)+$`` would stop every
    request of a facade, and every step of a triggerer.
    """
    # 200 ms to import, and most definitions have no schema.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords: dict[str, _Keyword] = dict(Draft202012Validator.VALIDATORS) | {
        "additionalProperties": _additional_properties,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "uniqueItems": _unique_items,
    }
    for name in ("unevaluatedItems", "unevaluatedProperties"):
        keywords[name] = _for_few(name, keywords[name])
    timed = {name: _timed(keyword) for name, keyword in keywords.items()}
    validator: type[Draft202012Validator] = extend(Draft202012Validator, timed)  # type: ignore[no-untyped-call]
    validator.evolve = _evolve  # type: ignore[method-assign]
    return validator


def _evolve(self: Any, **changes: Any) -> Any:
    # jsonschema's own goes by the "$schema" of the part: "$ref": "#" would lead back to the unbounded class.
    from attrs import fields

    for field in fields(type(self)):
        if field.init:
            changes.setdefault(field.alias, getattr(self, field.name))
    return type(self)(**changes)


def _timed(keyword: _Keyword) -> _Keyword:
    def timed(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        check_time()
        return keyword(validator, value, instance, schema)

    return timed


def pattern_problem(pattern: str) -> str | None:
    """Say why ``pattern`` is no usable regular expression, or None. It ends a sentence about the pattern."""
    import regex

    if _COMMENT.search(pattern):
        return "holds a comment or the flag x, which are not supported"
    if _unrolled(pattern) > _MAX_UNROLLED:
        return (
            f"repeats more than {_MAX_UNROLLED} characters; use fewer repetitions, or minLength and maxLength"
        )
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"is no regular expression: {error}"
    except FAULTS as error:
        return f"is too large or too deeply nested ({type(error).__name__})"
    return None


def _unrolled(pattern: str) -> int:
    """Count the characters of ``pattern`` with each ``{n}`` written out, as ``regex`` does when it compiles.

    27 characters of nested repetitions would otherwise take all the memory of the machine.
    """
    sizes, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        text, count = token[0], token["count"]
        if count is not None:
            # More digits than these are over the limit in any case, and int() refuses thousands of them.
            times = max(int(count[:9]), 1)
            sizes[-1] += last * (times - 1)
            last *= times
        elif text == "(":
            sizes.append(1)
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def _matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text. Raises UncheckableError where that can't be told in time."""
    import regex

    budget = _current.get()
    start = time.thread_time()
    try:
        if budget.patterns <= 0:
            raise TimeoutError
        return regex.search(pattern, text, timeout=budget.patterns, concurrent=True) is not None
    except TimeoutError:
        msg = f"{text[:100]!r} can't be matched against {pattern[:100]!r}: all patterns have {_PATTERN_SECONDS:g} s"
        raise UncheckableError(msg) from None
    except regex.error as error:
        raise UncheckableError(f"The pattern {pattern[:100]!r} is no regular expression: {error}") from None
    finally:
        budget.patterns -= time.thread_time() - start


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    extra = [
        name
        for name in instance
        if name not in schema.get("properties", {})
        and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if allowed is False:
        for name in extra:
            yield ValidationError(f"{name!r} is no property here: additional properties are not allowed")
    elif isinstance(allowed, dict):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if unique and isinstance(instance, list):
        seen: set[str] = set()
        for index, item in enumerate(instance):
            text = json.dumps(_plain_numbers(item), sort_keys=True)
            if text in seen:
                yield ValidationError(f"Item {index} is there twice, in a list of unique items")
                return
            seen.add(text)


def _plain_numbers(value: JsonValue) -> JsonValue:
    """Write 1.0 as 1: JSON Schema knows one kind of number."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    return value


def _for_few(name: str, keyword: _Keyword) -> _Keyword:
    """Bound a keyword that jsonschema checks in quadratic time."""

    def for_few(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        if isinstance(instance, dict | list) and len(instance) > _MAX_UNEVALUATED:
            raise UncheckableError(f"{name} can't be checked for more than {_MAX_UNEVALUATED} entries")
        return keyword(validator, value, instance, schema)

    return for_few


def shorten(message: str) -> str:
    """Cut a message of jsonschema, which quotes the whole value that is wrong, to 300 characters."""
    return message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}..."
