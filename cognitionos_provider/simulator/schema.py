"""A small value that satisfies a JSON Schema, always the same for the same schema.

Understands what structured outputs use: type, enum, const, properties, required, additionalProperties, items,
prefixItems, minItems, maxItems, uniqueItems, the bounds of strings and numbers, common formats, ``$ref`` into
the document, ``anyOf``, ``oneOf`` and ``allOf``. Not understood, and so perhaps not satisfied: ``pattern``,
``not``, ``if``, ``patternProperties``, ``minProperties``, ``contains``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["SchemaError", "instance"]

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class SchemaError(ValueError):
    """The schema can't be satisfied: a reference leads nowhere or back to itself, or no value is allowed."""


def instance(schema: Mapping[str, Any]) -> Any:
    """Return the value for ``schema``, itself the document that ``$ref`` points into.

    Every property is filled in, optional ones too, unless it would repeat the schema that it stands in (a
    tree ends at its first node). Of alternatives the first that can be satisfied is taken.

    Raises:
        SchemaError: the schema is malformed or needs a value that never ends.
    """
    try:
        return _value(schema, schema, (), "value", 0)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SchemaError(f"the schema is malformed: {error}") from error


def _value(schema: Any, root: Mapping[str, Any], open_refs: tuple[str, ...], name: str, index: int) -> Any:
    """Make the value. ``open_refs`` are the references being followed; ``index`` tells array items apart."""
    if schema is True:
        return f"simulated {name}"
    if not isinstance(schema, Mapping):
        raise SchemaError(f"no value is allowed for {name!r}: its schema is {schema!r}")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        if not schema["enum"]:
            raise SchemaError(f"no value is allowed for {name!r}: its enum is empty")
        return schema["enum"][index % len(schema["enum"])]
    if "$ref" in schema:
        ref = schema["$ref"]
        if ref in open_refs:
            raise SchemaError(f"{ref!r} needs itself without end")
        return _value(_resolve(ref, root), root, (*open_refs, ref), name, index)
    if "allOf" in schema:
        return _value(_merged(schema, root, open_refs), root, open_refs, name, index)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _first_of(schema[keyword], root, open_refs, name, index)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, open_refs)
    if kind == "array" or (kind is None and ("items" in schema or "prefixItems" in schema)):
        return _array(schema, root, open_refs, name)
    if kind in ("integer", "number"):
        return _number(schema, name, index, whole=kind == "integer")
    if kind == "boolean":
        return index % 2 == 0
    if kind == "null":
        return None
    return _string(schema, name, index)


def _resolve(ref: str, root: Mapping[str, Any]) -> Any:
    """Follow a JSON pointer (RFC 6901) inside the document."""
    if ref == "#":
        return root
    if not ref.startswith("#/"):
        raise SchemaError(f"{ref!r} points outside the schema")
    target: Any = root
    for part in ref[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            target = target[int(key)] if isinstance(target, list) else target[key]
        except (KeyError, IndexError, ValueError) as error:
            raise SchemaError(f"{ref!r} leads nowhere in the schema") from error
    return target


def _merged(schema: Mapping[str, Any], root: Mapping[str, Any], open_refs: tuple[str, ...]) -> dict[str, Any]:
    """Join the parts of ``allOf`` into one: properties and required add up, else the last part wins."""
    merged: dict[str, Any] = {}
    for part in ({key: value for key, value in schema.items() if key != "allOf"}, *schema["allOf"]):
        seen = open_refs
        while "$ref" in part:
            if part["$ref"] in seen:
                raise SchemaError(f"{part['$ref']!r} needs itself without end")
            seen = (*seen, part["$ref"])
            part = _resolve(part["$ref"], root)
        if "allOf" in part:
            part = _merged(part, root, seen)
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", []), *part.get("required", [])]
        merged |= part
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
    return merged


def _first_of(
    branches: list[Any], root: Mapping[str, Any], open_refs: tuple[str, ...], name: str, index: int
) -> Any:
    for branch in branches:
        try:
            return _value(branch, root, open_refs, name, index)
        except SchemaError:
            continue
    raise SchemaError(f"none of the alternatives of {name!r} can be satisfied")


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], open_refs: tuple[str, ...]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    others = schema.get("additionalProperties", True)
    made: dict[str, Any] = {}
    for key in dict.fromkeys([*properties, *required]):
        try:
            made[key] = _value(properties.get(key, others), root, open_refs, key, 0)
        except SchemaError:
            if key in required:
                raise
    return made


def _array(
    schema: Mapping[str, Any], root: Mapping[str, Any], open_refs: tuple[str, ...], name: str
) -> list[Any]:
    prefix = schema.get("prefixItems", [])
    items = schema.get("items", not prefix)
    least = schema.get("minItems", 0)
    length = min(max(least, len(prefix), 1), schema.get("maxItems", math.inf))
    made: list[Any] = []
    while len(made) < length:
        item = prefix[len(made)] if len(made) < len(prefix) else items
        try:
            made.append(_value(item, root, open_refs, name, len(made) if schema.get("uniqueItems") else 0))
        except SchemaError:
            if len(made) < least:
                raise
            break
    return made


def _number(schema: Mapping[str, Any], name: str, index: int, *, whole: bool) -> int | float:
    """Make the lowest allowed number, or without a lower bound the one nearest to zero."""
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    low, high = max(schema.get("minimum", -math.inf), above), min(schema.get("maximum", math.inf), below)
    step = schema.get("multipleOf") or (1 if whole else None)
    made: int | float
    if step and low > -math.inf:
        first = math.ceil(low / step)
        made = (first + (first * step <= above) + index) * step
    elif step:
        first = 0 if high == math.inf else min(0, math.floor(high / step))
        made = (first + index if high == math.inf else first - (first * step >= below) - index) * step
    elif low == -math.inf:
        made = min(0, high) - index - (min(0, high) >= below)
    elif high == math.inf:
        made = low + index + (low <= above)
    else:
        made = low + (high - low) * (1 - 0.5 ** (index + (low <= above)))
    if not (low <= made <= high and above < made < below):
        raise SchemaError(f"no number is allowed for {name!r} between {low} and {high}")
    return int(made) if whole else made


def _string(schema: Mapping[str, Any], name: str, index: int) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    made = f"simulated {name}" + (f" {index + 1}" if index else "")
    return made.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
