"""The filters and tests of the template language, with names as in Jinja.

Few, total and bounded: none calls into a value's own methods by name, formats with a pattern, or makes more
than its allowance. Unlike Jinja's they compare text with its case, and refuse what they can't convert
instead of answering 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cognitionos_provider.definitions.rendering import Allowance, MissingValueError, bounded_number, to_text
from cognitionos_provider.exceptions import TemplateError

__all__ = ["FILTERS", "TESTS"]

_UNSET: Any = object()


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TemplateError(f"'{name}' needs a list, not {kind_of(value)}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"'{name}' needs text, not {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """Return what JSON calls a value: ``"a list"``, ``"null"``."""
    kinds: list[tuple[Any, str]] = [
        (bool, "true or false"),
        (str, "text"),
        (int | float, "a number"),
        (list, "a list"),
        (Mapping, "an object"),
    ]
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _length(allowance: Allowance, value: Any) -> int:
    if not isinstance(value, str | list | Mapping):
        raise TemplateError(f"'length' needs text, a list or an object, not {kind_of(value)}")
    return len(value)


def _join(allowance: Allowance, value: Any, d: str = "") -> str:
    separator = _text(d, "join")
    items = _list(value, "join")
    allowance.take(len(separator) * len(items))
    return separator.join([to_text(item, allowance) for item in items])


def _upper(allowance: Allowance, value: Any) -> str:
    allowance.take(len(_text(value, "upper")))
    return str(value.upper())


def _lower(allowance: Allowance, value: Any) -> str:
    allowance.take(len(_text(value, "lower")))
    return str(value.lower())


def _trim(allowance: Allowance, value: Any, chars: str | None = None) -> str:
    return _text(value, "trim").strip(None if chars is None else _text(chars, "trim"))


def _replace(allowance: Allowance, value: Any, old: str, new: str) -> str:
    text, before, after = (_text(part, "replace") for part in (value, old, new))
    if not before:
        raise TemplateError("'replace' can't look for an empty text")
    allowance.take(len(text) + text.count(before) * max(0, len(after) - len(before)))
    return text.replace(before, after)


def _string(allowance: Allowance, value: Any) -> str:
    return to_text(value, allowance)


def _tojson(allowance: Allowance, value: Any) -> str:
    allowance.take_value(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _first(allowance: Allowance, value: Any) -> Any:
    return _end(value, 0, "first")


def _last(allowance: Allowance, value: Any) -> Any:
    return _end(value, -1, "last")


def _end(value: Any, index: int, name: str) -> Any:
    if not value and isinstance(value, list | str):
        raise MissingValueError(f"'{name}' of nothing: the value is empty")
    return value[index] if isinstance(value, str) else _list(value, name)[index]


def _int(allowance: Allowance, value: Any, default: Any = _UNSET) -> Any:
    return _converted(int, value, default)


def _float(allowance: Allowance, value: Any, default: Any = _UNSET) -> Any:
    return _converted(float, value, default)


def _converted(convert: Callable[[Any], Any], value: Any, default: Any) -> Any:
    try:
        if not isinstance(value, str | int | float):
            raise TypeError
        return bounded_number(convert(value))
    except (TypeError, ValueError, OverflowError):
        if default is not _UNSET:
            return default
        shown = f"{value[:50]!r}" if isinstance(value, str) else kind_of(value)
        raise TemplateError(f"'{convert.__name__}' can't make a number of {shown}; give a default") from None


def _round(allowance: Allowance, value: Any, precision: int = 0) -> float:
    if not _is_number(value) or not _is_integer(precision) or abs(precision) > 15:
        raise TemplateError("'round' needs a number, and a precision of -15 to 15")
    return float(round(value, precision))


def _abs(allowance: Allowance, value: Any) -> Any:
    if not _is_number(value):
        raise TemplateError(f"'abs' needs a number, not {kind_of(value)}")
    return abs(value)


def _sort(allowance: Allowance, value: Any, reverse: bool = False) -> list[Any]:
    allowance.take(len(_list(value, "sort")))
    return sorted(value, reverse=bool(reverse))


def _unique(allowance: Allowance, value: Any) -> list[Any]:
    allowance.take_value(_list(value, "unique"))
    return list({json.dumps(item, sort_keys=True): item for item in reversed(value)}.values())[::-1]


def _reverse(allowance: Allowance, value: Any) -> Any:
    if isinstance(value, str):
        allowance.take(len(value))
        return value[::-1]
    allowance.take(len(_list(value, "reverse")))
    return value[::-1]


def _sum(allowance: Allowance, value: Any, start: Any = 0) -> Any:
    numbers = [start, *_list(value, "sum")]
    if not all(map(_is_number, numbers)):
        raise TemplateError("'sum' needs a list of numbers")
    return bounded_number(sum(numbers))


def _min(allowance: Allowance, value: Any) -> Any:
    return min(_filled(value, "min"))


def _max(allowance: Allowance, value: Any) -> Any:
    return max(_filled(value, "max"))


def _filled(value: Any, name: str) -> list[Any]:
    if not _list(value, name):
        raise MissingValueError(f"'{name}' of an empty list")
    return list(value)


def _map(allowance: Allowance, value: Any, *, attribute: str, default: Any = _UNSET) -> list[Any]:
    """Take one key of each object of a list; ``attribute`` is a key, never a Python attribute."""
    key = _text(attribute, "map")
    allowance.take(len(_list(value, "map")))
    found = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise TemplateError(f"'map' needs a list of objects, but item {index} is {kind_of(item)}")
        if key not in item and default is _UNSET:
            raise MissingValueError(f"'map': item {index} has no '{key[:100]}'")
        found.append(item.get(key, default))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def contains(container: Any, item: Any) -> bool:
    """``item in container`` for text in text, an item of a list, a key of an object."""
    if isinstance(container, str):
        return _text(item, "in") in container
    if isinstance(container, Mapping):
        return isinstance(item, str) and item in container
    return item in _list(container, "in")


FILTERS: Mapping[str, Callable[..., Any]] = {
    "abs": _abs,
    "count": _length,
    "first": _first,
    "float": _float,
    "int": _int,
    "join": _join,
    "last": _last,
    "length": _length,
    "lower": _lower,
    "map": _map,
    "max": _max,
    "min": _min,
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "sort": _sort,
    "string": _string,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
    "unique": _unique,
    "upper": _upper,
}
"""Filters but ``default``, which the evaluator does itself: it must see that a value is missing."""

TESTS: Mapping[str, Callable[..., bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "eq": lambda value, other: bool(value == other),
    "equalto": lambda value, other: bool(value == other),
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "ge": lambda value, other: bool(value >= other),
    "gt": lambda value, other: bool(value > other),
    "in": lambda value, other: contains(other, value),
    "integer": _is_integer,
    "le": lambda value, other: bool(value <= other),
    "lt": lambda value, other: bool(value < other),
    "mapping": lambda value: isinstance(value, Mapping),
    "ne": lambda value, other: bool(value != other),
    "none": lambda value: value is None,
    "number": _is_number,
    "sequence": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
}
"""Tests but ``defined`` and ``undefined``, which the evaluator does itself."""
