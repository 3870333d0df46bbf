import math
import time
from typing import Any

import pytest
from pydantic import JsonValue, ValidationError

from cognitionos_provider.definitions import Workflow, check_inputs
from cognitionos_provider.definitions.json_value import json_violations
from cognitionos_provider.definitions.schema import schema_violations, value_violations
from cognitionos_provider.exceptions import DefinitionError

SMALL: dict[str, Any] = {"workflow_id": "w", "version": "1.0.0", "name": "w"}
TOO_LARGE = [2**63, -(2**63) - 1, 10**5000]


def about(**schema: JsonValue) -> dict[str, JsonValue]:
    """Make a schema of an object, whose property x is as given."""
    return {"type": "object", "properties": {"x": schema}}


def only_violation(schema: dict[str, JsonValue], value: JsonValue) -> str:
    (violation,) = value_violations(schema, value)
    return violation.msg


@pytest.mark.parametrize("number", TOO_LARGE, ids=["large", "small", "huge"])
@pytest.mark.parametrize(
    ("loc", "fields"),
    [
        (("metadata", "x"), {"metadata": {"x": None}}),
        (("input_schema", "const"), {"input_schema": {"type": "object", "const": None}}),
        (("steps", 0, "inputs", "x"), {"steps": [{"step_id": "a", "inputs": {"x": None}}]}),
        (
            ("steps", 0, "output_schema", "const"),
            {"steps": [{"step_id": "a", "output_schema": {"type": "object", "const": None}}]},
        ),
        (
            ("steps", 0, "arguments", "x"),
            {"steps": [{"step_id": "a", "operator": "a.b.C", "arguments": {"x": None}}]},
        ),
    ],
)
def test_an_integer_that_airflows_channel_can_not_carry_is_refused_where_it_stands(
    number: int, loc: tuple[str | int, ...], fields: dict[str, Any]
) -> None:
    place: Any = fields
    for part in loc[:-1]:
        place = place[part]
    body = SMALL | {"steps": [{"step_id": "a"}]} | fields
    place[loc[-1]] = number
    try:
        with pytest.raises(ValidationError) as caught:
            Workflow.model_validate(body)
    finally:
        place[loc[-1]] = None
    (error,) = caught.value.errors()
    assert error["loc"] == loc
    assert "outside of -2**63 to 2**63-1" in error["msg"]


@pytest.mark.parametrize("schema", [None, {"type": "object"}])
def test_the_inputs_of_a_run_hold_no_integer_that_can_not_be_carried(schema: JsonValue) -> None:
    workflow = Workflow.model_validate(SMALL | {"steps": [{"step_id": "a"}], "input_schema": schema})
    with pytest.raises(DefinitionError, match=r"outside of -2\*\*63") as caught:
        check_inputs(workflow, {"x": [2**63]})
    assert caught.value.errors[0][0] == ("inputs", "x", 0)


def test_the_largest_integers_and_any_float_can_be_kept() -> None:
    assert json_violations([2**63 - 1, -(2**63), True, 1e300, -1e300]) == []


def test_a_budget_is_at_most_what_its_column_holds() -> None:
    body = SMALL | {"steps": [{"step_id": "a"}]}
    assert Workflow.model_validate(body | {"budget_usd": 999_999_999}).budget_usd == 999_999_999
    with pytest.raises(ValidationError, match="999999999"):
        Workflow.model_validate(body | {"budget_usd": 1e9})


def test_all_patterns_of_a_check_share_one_second() -> None:
    schema = about(items={"not": {"pattern": "^(a|aa)+$"}})
    start = time.thread_time()
    assert "can't be matched" in only_violation(schema, {"x": ["a" * 64 + "!"] * 10_000})
    assert time.thread_time() - start < 3


def test_a_pattern_given_up_is_no_answer_that_not_could_turn_round() -> None:
    inner: JsonValue = {"pattern": "^(a|aa)+$"}
    schema = about(**{"not": inner})
    assert "can't be matched" in only_violation(schema, {"x": "a" * 64 + "!"})


@pytest.mark.parametrize("dialect", ["https://json-schema.org/draft/2020-12/schema", None])
def test_no_way_through_a_schema_leads_to_unbounded_patterns(dialect: str | None) -> None:
    # jsonschema would take its own class for each part with a "$schema".
    schema: dict[str, JsonValue] = about(**{"$ref": "#"}) | {"patternProperties": {"^(a|aa)+$": True}}
    if dialect:
        schema["$schema"] = dialect
    assert "can't be matched" in only_violation(schema, {"x": {"a" * 64 + "!": 1}})


def test_combinations_that_multiply_are_given_up() -> None:
    twice: dict[str, JsonValue] = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(40)
    }
    schema: dict[str, JsonValue] = {"type": "object", "$defs": {**twice, "d40": {}}, "$ref": "#/$defs/d0"}
    assert schema_violations(schema) == []
    start = time.thread_time()
    assert "within 2 s" in only_violation(schema, {})
    assert time.thread_time() - start < 8


def test_a_check_that_was_given_up_leaves_the_next_one_its_full_time() -> None:
    schema = about(pattern="^(a|aa)+$")
    assert "can't be matched" in only_violation(schema, {"x": "a" * 64 + "!"})
    assert value_violations(schema, {"x": "aaa"}) == []


def test_unevaluated_properties_beside_patterns_are_refused() -> None:
    (violation,) = schema_violations(
        {"type": "object", "allOf": [{"patternProperties": {"^a": True}}], "unevaluatedProperties": False}
    )
    assert violation.loc == ("unevaluatedProperties",)
    assert "not supported" in violation.msg


@pytest.mark.parametrize("keyword", ["unevaluatedProperties", "unevaluatedItems"])
def test_unevaluated_entries_are_checked_up_to_a_thousand(keyword: str) -> None:
    schema = about(**{keyword: False})
    assert schema_violations(schema) == []

    def entries(count: int) -> JsonValue:
        return {"x": [0] * count if keyword == "unevaluatedItems" else {str(n): 0 for n in range(count)}}

    assert "not allowed" in only_violation(schema, entries(1_000))
    assert "more than 1000 entries" in only_violation(schema, entries(1_001))


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, True, "1", None, 0, False], True),
        ([1, 1.0], False),
        ([{"a": [1, {"c": 2}], "b": 0}, {"b": 0.0, "a": [1.0, {"c": 2}]}], False),
        ([[1], [True]], True),
        ([0.5, 0.5], False),
        ([0.0, -0.0], False),
    ],
)
def test_items_are_unique_as_json_schema_compares_them(items: JsonValue, unique: bool) -> None:
    assert (value_violations(about(uniqueItems=True), {"x": items}) == []) is unique
    assert value_violations(about(uniqueItems=False), {"x": items}) == []


def test_many_items_are_told_apart_in_little_time() -> None:
    items: list[JsonValue] = [{"n": number} for number in range(5_000)]
    start = time.thread_time()
    assert value_violations(about(uniqueItems=True), {"x": items}) == []
    assert "twice" in only_violation(about(uniqueItems=True), {"x": [*items, {"n": 0}]})
    required: list[JsonValue] = [*items, "text"]
    assert schema_violations({"type": "object", "required": required})
    assert time.thread_time() - start < 2


@pytest.mark.parametrize(
    ("pattern", "fragment"),
    [
        ("(", "is no regular expression"),
        ("a{99999999999999}", "repeats more than 20000"),
        ("a{2,99999999999999}", "is no regular expression"),
        ("a{" + "9" * 5000 + "}", "repeats more than 20000"),
        ("(((a{1000}){1000}){1000})", "repeats more than 20000"),
        (r"[(](\((a{200}){200})", "repeats more than 20000"),
        (r"[^]()](a{200}){200}", "repeats more than 20000"),
        ("(?#[)(a{200}){200}(?#])", "comment"),
        ("(?ix)a #[\n(a{200}){200} #]", "comment"),
        ("(" * 5000 + ")" * 5000, "too deeply nested"),
    ],
)
def test_a_pattern_that_can_not_be_used_is_told_when_it_is_posted(pattern: str, fragment: str) -> None:
    (violation,) = schema_violations(about(pattern=pattern))
    assert violation.loc == ("properties", "x", "pattern")
    assert fragment in violation.msg
    (violation,) = schema_violations(about(patternProperties={pattern: True}))
    assert violation.loc == ("properties", "x", "patternProperties", pattern)
    assert fragment in violation.msg


def test_usual_patterns_are_taken() -> None:
    for pattern in (
        r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        r"^([0-9]{1,3}\.){3}[0-9]{1,3}$",
        r"^(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,7}:)$",
        r"(?i)^[^@\s]{1,64}@([\w-]+\.)+\w{2,}$",
        r"^\(?ext\)? [0-9]+$",
    ):
        assert schema_violations(about(pattern=pattern)) == []


@pytest.mark.parametrize(
    ("reference", "fragment"),
    [
        ("#/type", "leads to no schema"),
        ("#/properties/x/enum/0", "leads to no schema"),
        ("#/properties/x/enum/one", "leads nowhere"),
        ("#/properties/x/enum/0/a", "leads nowhere"),
        ("#/properties/x/enum/1", "no valid JSON Schema"),
    ],
)
def test_a_reference_leads_to_a_schema(reference: str, fragment: str) -> None:
    schema = about(enum=[7, {"type": "objec"}], **{"$ref": reference})
    (violation,) = schema_violations(schema)
    assert violation.loc == ("properties", "x")
    assert fragment in violation.msg


def test_a_reference_may_lead_to_true_and_to_a_place_the_draft_does_not_know() -> None:
    schema = about(**{"$ref": "#/components/row"}) | {"components": {"row": {"items": {"$ref": "#/yes"}}}}
    assert schema_violations(schema | {"yes": True}) == []
    (violation,) = schema_violations(schema | {"yes": 1})
    assert violation.loc == ("properties", "x", "items")


@pytest.mark.parametrize(
    "part",
    [
        {"$ref": "#/type"},
        {"$ref": "#/properties/x/enum/0", "enum": [7]},
        {"$ref": "#/properties/x/enum/none", "enum": [7]},
        {"type": "no type"},
        {"pattern": "("},
        {"pattern": "(" * 5000 + ")" * 5000},
        {"multipleOf": 0},
        {"multipleOf": "x"},
    ],
)
def test_a_value_is_no_crash_even_where_its_schema_is_wrong(part: dict[str, JsonValue]) -> None:
    assert only_violation(about(**part), {"x": "text" if "pattern" in part else 7})


@pytest.mark.parametrize("schema", [{"type": "object", "minimum": math.inf}, about(multipleOf=10**400)])
def test_a_schema_with_numbers_out_of_range_is_no_crash(schema: dict[str, JsonValue]) -> None:
    schema_violations(schema)
    assert isinstance(value_violations(schema, {"x": 0.5}), list)


def test_an_identifier_that_is_no_address_is_a_violation() -> None:
    inner: JsonValue = {"$id": "a"}
    (violation,) = schema_violations(about(items=inner, **{"$id": "http://["}))
    assert "no usable JSON Schema" in violation.msg
