"""JSON Schemas in a definition (draft 2020-12): are they valid themselves, and do values satisfy them?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, JsonValue

from cognitionos_provider.definitions.json_value import JsonObject, json_violations
from cognitionos_provider.definitions.violation import MAX_VIOLATIONS, Violation, as_validation_error

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

__all__ = ["JsonSchema", "schema_violations", "value_violations"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_MAX_MESSAGE = 300
_REGEX_SECONDS = 0.5


def schema_violations(schema: dict[str, JsonValue]) -> list[Violation]:
    """List why ``schema`` is no usable schema of an object; paths are inside the schema."""
    return list(_schema_violations(_canonical(schema)))


def value_violations(schema: dict[str, JsonValue], value: JsonValue) -> list[Violation]:
    """List where ``value`` does not satisfy ``schema``, in document order, at most 50.

    The value's own shape is checked first: depth, finite numbers, storable text.
    """
    if violations := json_violations(value):
        return violations
    from referencing.exceptions import Unresolvable

    validator = _validator(_canonical(schema))
    violations = []
    try:
        for error in validator.iter_errors(value):
            violations.append(Violation(tuple(error.absolute_path), _shorten(error.message), "schema"))
            if len(violations) == MAX_VIOLATIONS:
                break
    except Unresolvable as error:
        return [Violation((), f"The schema refers to {error.ref[:200]!r}, which is not in it", "schema")]
    except RecursionError:
        return [
            Violation(
                (), "The value can't be checked, since the schema refers to itself without end", "schema"
            )
        ]
    return sorted(violations, key=lambda violation: [str(part) for part in violation.loc])


def _canonical(schema: dict[str, JsonValue]) -> str:
    return json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=256)
def _validator(canonical: str) -> Draft202012Validator:
    from referencing import Registry

    # The default registry of jsonschema fetches "$ref": "http://..." over the network.
    return _bounded_validator()(json.loads(canonical), registry=Registry())


@cache
def _bounded_validator() -> type[Draft202012Validator]:
    """Return a validator whose regular expressions are given up after half a second.

    Python's own ``re`` holds the interpreter while it backtracks: one input against ``^(a+)+$`` would stop every
    request of a facade, and every step of a triggerer.
    """
    # 200 ms to import, and most definitions have no schema.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords = {
        "additionalProperties": _additional_properties,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
    }
    bounded: type[Draft202012Validator] = extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
    return bounded


def _matches(pattern: str, text: str) -> bool | None:
    """Whether the pattern is found in the text; None where that can't be told in time."""
    import regex

    try:
        return regex.search(pattern, text, timeout=_REGEX_SECONDS, concurrent=True) is not None
    except TimeoutError:
        return None


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, str):
        return
    found = _matches(pattern, instance)
    if found is None:
        yield ValidationError(f"{instance!r} can't be matched against {pattern!r} within {_REGEX_SECONDS} s")
    elif not found:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            found = _matches(pattern, name)
            if found is None:
                yield ValidationError(
                    f"{name!r} can't be matched against {pattern!r} within {_REGEX_SECONDS} s"
                )
                return
            if found:
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    # A name that can't be matched in time is told by patternProperties itself.
    extra = [
        name
        for name in instance
        if name not in schema.get("properties", {})
        and not any(_matches(pattern, name) is not False for pattern in patterns)
    ]
    if allowed is False:
        for name in extra:
            yield ValidationError(f"{name!r} is no property here: additional properties are not allowed")
    elif isinstance(allowed, dict):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)


@lru_cache(maxsize=256)
def _schema_violations(canonical: str) -> tuple[Violation, ...]:
    schema = json.loads(canonical)
    declared = schema.get("$schema", _DRAFT)
    if not isinstance(declared, str) or declared.rstrip("#") != _DRAFT:
        return (Violation(("$schema",), f"Only JSON Schema draft 2020-12 ({_DRAFT}) is supported", "schema"),)
    validator = type(_validator(canonical))
    meta = validator(validator.META_SCHEMA, format_checker=validator.FORMAT_CHECKER)
    errors = [
        Violation(
            tuple(error.absolute_path), f"This is no valid JSON Schema: {_shorten(error.message)}", "schema"
        )
        for error, _ in zip(meta.iter_errors(schema), range(MAX_VIOLATIONS), strict=False)
    ]
    if errors:
        return tuple(errors)
    if schema.get("type") != "object":
        return (Violation((), 'The schema must describe an object: give it "type": "object"', "schema"),)
    return tuple(_bad_references(schema))


def _bad_references(root: dict[str, JsonValue]) -> list[Violation]:
    """Find references that lead out of the schema or nowhere; nothing is ever fetched."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    violations = []
    resource = DRAFT202012.create_resource(root)
    pending = [(resource, Registry().with_resource("", resource).resolver())]
    while pending:
        resource, resolver = pending.pop()
        pending.extend((part, resolver.in_subresource(part)) for part in resource.subresources())
        if not isinstance(resource.contents, dict):
            continue
        for keyword in ("$ref", "$dynamicRef"):
            reference = resource.contents.get(keyword)
            if not isinstance(reference, str):
                continue
            if not reference.startswith("#"):
                msg = f"{keyword} {reference[:200]!r} leads out of the schema; only '#...' is supported"
                violations.append(Violation((), msg, "schema"))
                continue
            try:
                resolver.lookup(reference)
            except Unresolvable:
                violations.append(Violation((), f"{keyword} {reference[:200]!r} leads nowhere", "schema"))
    return violations[:MAX_VIOLATIONS]


def _shorten(message: str) -> str:
    # jsonschema quotes the whole value that is wrong.
    return message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}..."


def _usable_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if violations := schema_violations(schema):
        raise as_validation_error("JSON Schema", violations)
    return schema


JsonSchema = Annotated[JsonObject, AfterValidator(_usable_schema)]
"""A JSON Schema, draft 2020-12, of type object, that refers to nothing outside itself."""
