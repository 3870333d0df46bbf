"""The values made for JSON schemas: valid, small, always the same."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from cognitionos_provider.simulator.schema import SchemaError, instance


class Node(BaseModel):
    name: str = Field(min_length=30, max_length=40)
    parent: Node | None
    children: list[Node] = []


class Order(BaseModel):
    kind: Literal["buy", "sell"]
    version: Literal[3]
    count: int = Field(gt=4, multiple_of=5)
    price: float = Field(gt=0, lt=1)
    pair: tuple[int, str]
    at: datetime
    id: UUID
    labels: dict[str, int]
    seen: set[int] = Field(min_length=4)
    node: Node
    either: int | str


@pytest.mark.parametrize("model", [Node, Order])
def test_the_value_for_a_pydantic_model_is_valid(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    assert instance(schema) == instance(schema)
    model.model_validate(instance(schema))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "simulated value"),
        (True, "simulated value"),
        ({"const": None}, None),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": ["null", "integer"]}, 0),
        ({"type": ["null"]}, None),
        ({"type": "boolean"}, True),
        ({"properties": {"a": {"type": "null"}}}, {"a": None}),
        ({"type": "object", "required": ["a"]}, {"a": "simulated a"}),
        ({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}}, {"a": 0}),
        ({"type": "object", "properties": {"a": False, "b": {"type": "integer"}}}, {"b": 0}),
        ({"items": {"type": "integer", "minimum": 3}}, [3]),
        ({"items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": "array", "items": False}, []),
        ({"prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False}, [0, True]),
        ({"items": {"enum": ["a", "b"]}, "uniqueItems": True, "minItems": 2}, ["a", "b"]),
        (
            {"items": {"type": "string"}, "uniqueItems": True, "minItems": 2},
            ["simulated value", "simulated value 2"],
        ),
        ({"type": "string", "maxLength": 4}, "simu"),
        ({"type": "string", "minLength": 17}, "simulated value.."),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "string", "format": "of its own"}, "simulated value"),
        ({"anyOf": [False, {"type": "integer"}]}, 0),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, 0),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, True),
        ({"anyOf": [{"type": "boolean"}], "properties": {"a": {"$ref": "#/anyOf/0"}}}, True),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}, {"allOf": [{"required": ["c"]}]}],
                "properties": {"b": {"type": "integer"}},
                "$defs": {"a": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
            },
            {"b": 0, "a": 0, "c": "simulated c"},
        ),
    ],
)
def test_a_schema_gets_its_first_small_value(schema: Any, value: Any) -> None:
    assert instance(schema) == value
    jsonschema.validate(instance(schema), schema)


bounds = st.integers(-9, 9)


@given(
    kind=st.sampled_from(["integer", "number"]),
    low=st.none() | bounds,
    span=st.none() | st.integers(8, 20),
    strict=st.tuples(st.booleans(), st.booleans()),
    step=st.none() | st.sampled_from([1, 2, 3]),
    unique=st.booleans(),
)
def test_a_number_keeps_within_its_bounds(
    kind: str, low: int | None, span: int | None, strict: tuple[bool, bool], step: int | None, unique: bool
) -> None:
    number: dict[str, Any] = {"type": kind}
    if low is not None:
        number["exclusiveMinimum" if strict[0] else "minimum"] = low
    if span is not None:
        number["exclusiveMaximum" if strict[1] else "maximum"] = (-4 if low is None else low) + span
    if step is not None:
        number["multipleOf"] = step
    schema = {"type": "array", "items": number, "minItems": 2, "uniqueItems": unique}
    jsonschema.validate(instance(schema), schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "no value is allowed"),
        ({"enum": []}, "enum is empty"),
        ({"$ref": "#"}, "without end"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"$ref": "https://example.com/a"}, "outside the schema"),
        ({"anyOf": [False, {"enum": []}]}, "none of the alternatives"),
        ({"allOf": [{"$ref": "#"}]}, "without end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "without end"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without end"),
        ({"items": {"$ref": "#"}, "minItems": 1}, "without end"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number is allowed"),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1}, "no number is allowed"),
        ({"type": "string", "minLength": "3"}, "malformed"),
        ({"properties": 5}, "malformed"),
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused_with_the_reason(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        instance(schema)
