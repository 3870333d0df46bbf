"""JSON Schemas in a definition (draft 2020-12): are they valid themselves, and do values satisfy them?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, JsonValue

from cognitionos_provider.definitions.json_value import JsonObject, json_violations
from cognitionos_provider.definitions.validator import (
    FAULTS,
    UncheckableError,
    bounded,
    bounded_validator,
    check_time,
    pattern_problem,
    shorten,
)
from cognitionos_provider.definitions.violation import MAX_VIOLATIONS, Loc, Violation, as_validation_error

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = ["JsonSchema", "schema_violations", "value_violations"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

# Where a schema holds schemas (JSON Schema core, section 10, and validation, section 8).
_IN_VALUE = (
    *("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames"),
    *("then", "unevaluatedItems", "unevaluatedProperties"),
)
_IN_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_IN_OBJECT = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


def schema_violations(schema: dict[str, JsonValue]) -> list[Violation]:
    """List why ``schema`` is no usable schema of an object; paths are inside the schema."""
    try:
        with bounded():
            return list(_schema_violations(_canonical(schema)))
    except UncheckableError as error:
        return [Violation((), str(error), "schema")]
    except FAULTS as error:
        return [Violation((), f"This is no usable JSON Schema ({type(error).__name__})", "schema")]


def value_violations(schema: dict[str, JsonValue], value: JsonValue) -> list[Violation]:
    """List where ``value`` does not satisfy ``schema``, in document order, at most 50.

    The value's own shape is checked first: depth, numbers that can be kept, storable text. A check that takes
    more than 5 s of processor time, or 1 s in regular expressions, ends with one violation that says so.
    """
    if violations := json_violations(value):
        return violations
    from jsonschema.exceptions import UnknownType
    from referencing.exceptions import Unresolvable

    violations = []
    try:
        with bounded():
            for error in _validator(_canonical(schema)).iter_errors(value):
                violations.append(Violation(tuple(error.absolute_path), shorten(error.message), "schema"))
                if len(violations) == MAX_VIOLATIONS:
                    break
    except UncheckableError as error:
        return [Violation((), str(error), "schema")]
    except Unresolvable as error:
        return [Violation((), f"The schema refers to {error.ref[:200]!r}, which is not in it", "schema")]
    except RecursionError:
        return [
            Violation(
                (), "The value can't be checked, since the schema refers to itself without end", "schema"
            )
        ]
    except (*FAULTS, UnknownType) as error:
        msg = f"The value can't be checked, since its schema is no usable one ({type(error).__name__})"
        return [Violation((), msg, "schema")]
    return sorted(violations, key=lambda violation: [str(part) for part in violation.loc])


def _canonical(schema: dict[str, JsonValue]) -> str:
    return json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=256)
def _validator(canonical: str) -> Draft202012Validator:
    from referencing import Registry

    # The default registry of jsonschema fetches "$ref": "http://..." over the network.
    return bounded_validator()(json.loads(canonical), registry=Registry())


@lru_cache(maxsize=256)
def _schema_violations(canonical: str) -> tuple[Violation, ...]:
    schema = json.loads(canonical)
    declared = schema.get("$schema", _DRAFT)
    if not isinstance(declared, str) or declared.rstrip("#") != _DRAFT:
        return (Violation(("$schema",), f"Only JSON Schema draft 2020-12 ({_DRAFT}) is supported", "schema"),)
    if errors := _meta_violations(schema, ()):
        return tuple(errors)
    if schema.get("type") != "object":
        return (Violation((), 'The schema must describe an object: give it "type": "object"', "schema"),)
    found = zip(_part_violations(schema), range(MAX_VIOLATIONS), strict=False)
    return tuple(violation for violation, _ in found)


def _meta_violations(schema: JsonValue, loc: Loc) -> list[Violation]:
    validator = bounded_validator()
    return [
        Violation(
            (*loc, *error.absolute_path), f"This is no valid JSON Schema: {shorten(error.message)}", "schema"
        )
        for error, _ in zip(
            validator(validator.META_SCHEMA).iter_errors(schema), range(MAX_VIOLATIONS), strict=False
        )
    ]


def _parts(schema: dict[str, Any], loc: Loc) -> Iterator[tuple[Loc, dict[str, Any]]]:
    """Yield the schemas right inside ``schema`` that are objects, with their paths."""
    inside: list[tuple[Loc, Any]] = [((key,), schema[key]) for key in _IN_VALUE if key in schema]
    for key in _IN_LIST:
        inside.extend(((key, index), part) for index, part in enumerate(schema.get(key, ())))
    for key in _IN_OBJECT:
        inside.extend(((key, name), part) for name, part in schema.get(key, {}).items())
    for place, part in inside:
        if isinstance(part, dict):
            yield (*loc, *place), part


def _part_violations(root: dict[str, Any]) -> Iterator[Violation]:
    """Find what the meta-schema can't tell: bad patterns, and references that lead out, nowhere or to no schema.

    Nothing is ever fetched.
    """
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    # What a keyword unknown to the draft holds is a schema only where a reference leads to it.
    resource = DRAFT202012.create_resource(root)
    pending: list[tuple[Loc, dict[str, Any], Any]] = [
        ((), root, Registry().with_resource("", resource).resolver())
    ]
    met = {id(root)}
    outside: list[tuple[Loc, dict[str, Any], Any]] = []
    keywords: dict[str, Loc] = {}
    while pending or outside:
        check_time()
        if not pending:
            loc, schema, resolver = outside.pop()
            if id(schema) in met:
                continue
            met.add(id(schema))
            if errors := _meta_violations(schema, ()):
                yield Violation(
                    loc, f"The reference leads to no valid JSON Schema: {errors[0].msg}", "schema"
                )
                continue
        else:
            loc, schema, resolver = pending.pop()
        for place, part in _parts(schema, loc):
            if id(part) not in met:
                met.add(id(part))
                pending.append((place, part, resolver.in_subresource(DRAFT202012.create_resource(part))))
        keywords |= dict.fromkeys(schema, loc)
        patterns = [((*loc, "patternProperties", each), each) for each in schema.get("patternProperties", ())]
        if "pattern" in schema:
            patterns.append(((*loc, "pattern"), schema["pattern"]))
        for place, pattern in patterns:
            check_time()
            if problem := pattern_problem(pattern):
                yield Violation(place, shorten(f"The pattern {pattern[:100]!r} {problem}"), "schema")
        for keyword in ("$ref", "$dynamicRef"):
            if (reference := schema.get(keyword)) is None:
                continue
            quoted = f"{keyword} {reference[:200]!r}"
            if not reference.startswith("#"):
                yield Violation(loc, f"{quoted} leads out of the schema; only '#...' is supported", "schema")
                continue
            try:
                resolved = resolver.lookup(reference)
            except (*FAULTS, Unresolvable):
                yield Violation(loc, f"{quoted} leads nowhere", "schema")
                continue
            if isinstance(resolved.contents, dict):
                outside.append((loc, resolved.contents, resolved.resolver))
            elif not isinstance(resolved.contents, bool):
                yield Violation(
                    loc, f"{quoted} leads to no schema, which is an object, true or false", "schema"
                )
    if {"unevaluatedProperties", "patternProperties"} <= keywords.keys():
        msg = "unevaluatedProperties is not supported in a schema that has patternProperties, too"
        yield Violation((*keywords["unevaluatedProperties"], "unevaluatedProperties"), msg, "schema")


def _usable_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if violations := schema_violations(schema):
        raise as_validation_error("JSON Schema", violations)
    return schema


JsonSchema = Annotated[JsonObject, AfterValidator(_usable_schema)]
"""A JSON Schema, draft 2020-12, of type object, that refers to nothing outside itself."""
