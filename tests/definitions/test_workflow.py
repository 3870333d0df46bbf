import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

import cognitionos_provider.definitions as definitions
from cognitionos_provider.definitions import (
    Step,
    Workflow,
    as_definition_error,
    check_inputs,
    sinks,
    version_key,
)
from cognitionos_provider.definitions.schema import value_violations
from cognitionos_provider.exceptions import DefinitionError

BODY: dict[str, Any] = {
    "workflow_id": "data-pipeline",
    "version": "1.0.0",
    "name": "Data Processing Pipeline",
    "description": "Extract, transform, load data",
    "steps": [
        {
            "step_id": "extract",
            "name": "Extract Data",
            "agent_capability": "data_extraction",
            "inputs": {"source": "s3://bucket/data.csv"},
            "depends_on": [],
        },
        {
            "step_id": "transform",
            "name": "Transform Data",
            "agent_capability": "data_transformation",
            "inputs": {},
            "depends_on": ["extract"],
            "retry": {"max_attempts": 2},
        },
    ],
    "tags": ["data", "etl"],
}
SMALL: dict[str, Any] = {"workflow_id": "w", "version": "1.0.0", "name": "w", "steps": [{"step_id": "a"}]}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def storable(value: JsonValue) -> JsonValue:
    text = json.dumps(value, ensure_ascii=False).replace("\\u0000", "")
    cleaned: JsonValue = json.loads("".join(char for char in text if not "\ud800" <= char <= "\udfff"))
    return cleaned


def test_defaults_are_those_of_the_contract() -> None:
    workflow = Workflow.model_validate(SMALL)
    step = workflow.steps[0]
    assert (workflow.description, workflow.tags, workflow.metadata) == ("", (), {})
    assert (workflow.schedule, workflow.status, workflow.input_schema) == (None, "active", None)
    assert (workflow.budget_usd, workflow.unpriced, workflow.timeout_seconds) == (None, "refuse", None)
    assert (workflow.timezone, workflow.max_active_runs) == ("UTC", 1000)
    assert (step.name, step.agent_capability, step.inputs, step.depends_on) == ("a", "default", {}, ())
    assert (step.timeout_seconds, step.condition, step.for_each) == (300, None, None)
    assert (step.max_concurrency, step.max_items, step.on_item_error) == (20, 1000, "fail")
    assert (step.llm, step.output_schema, step.operator, step.arguments) == (None, None, None, {})
    assert step.retry.max_attempts == 3
    assert (step.retry.backoff_seconds, step.retry.backoff_multiplier, step.retry.max_backoff_seconds) == (
        1,
        2,
        60,
    )


def test_dag_id_is_made_of_id_and_version() -> None:
    assert Workflow.model_validate(BODY).dag_id == "data-pipeline.v1.0.0"


def test_the_canonical_json_holds_what_was_posted_and_nothing_else() -> None:
    text = Workflow.model_validate(BODY).canonical_json()
    assert json.loads(text) == BODY
    assert text == json.dumps(BODY, sort_keys=True, separators=(",", ":"))


def test_the_hash_of_a_body_stays_what_it_is_in_every_release() -> None:
    # Stored definitions are compared by these: a change here makes each of them another one.
    assert Workflow.model_validate(SMALL).content_hash() == (
        "9b88da7b4a1e3c9d54afeb121d9b39c7dd306e5b7f1073bb45e02adb309b894c"
    )


def test_a_default_that_is_written_out_is_other_content() -> None:
    hashes = {
        Workflow.model_validate(body).content_hash()
        for body in (
            SMALL,
            SMALL | {"status": "active"},
            SMALL | {"steps": [{"step_id": "a", "name": "a"}]},
            SMALL | {"steps": [{"step_id": "a", "retry": {}}]},
            SMALL | {"steps": [{"step_id": "a", "retry": {"max_attempts": 3}}]},
        )
    }
    assert len(hashes) == 5


def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_change_the_hash() -> None:
    first = SMALL | {"metadata": {"a": 1, "b": 2}, "budget_usd": 1}
    second = {"budget_usd": 1.0, "metadata": {"b": 2, "a": 1}} | dict(reversed(SMALL.items()))
    assert Workflow.model_validate(first).content_hash() == Workflow.model_validate(second).content_hash()


@given(
    st.dictionaries(st.text(), json_values, max_size=5), st.floats(min_value=1e-300, max_value=999_999_999)
)
def test_a_round_trip_through_json_keeps_content_and_hash(
    metadata: dict[str, JsonValue], budget: float
) -> None:
    body = SMALL | {"metadata": storable(metadata), "budget_usd": budget}
    workflow = Workflow.model_validate(body)
    again = Workflow.from_json(workflow.canonical_json())
    assert again == workflow
    assert again.content_hash() == workflow.content_hash()
    assert again.model_fields_set == workflow.model_fields_set


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("{", "Invalid JSON"),
        ("[" * 5000, "Invalid JSON"),
        (json.dumps(SMALL)[:-1] + ', "metadata": {"a": NaN}}', "NaN"),
        (json.dumps(SMALL)[:-1] + ', "metadata": {"a": 1e999}}', "NaN and Infinity"),
        (
            json.dumps(SMALL)[:-1] + ', "metadata": {"a": ' + "[" * 100 + "]" * 100 + "}}",
            "more than 64 levels",
        ),
    ],
    ids=["cut off", "too deep to read", "NaN", "overflow", "too deep to keep"],
)
def test_text_that_holds_no_workflow_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(ValidationError, match=fragment):
        Workflow.from_json(text)


def test_a_workflow_can_not_be_changed() -> None:
    workflow = Workflow.model_validate(SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        workflow.name = "other"  # type: ignore[misc]


def test_a_workflow_shares_nothing_with_the_body_it_was_made_from() -> None:
    metadata = {"a": [1]}
    workflow = Workflow.model_validate(SMALL | {"metadata": metadata})
    metadata["a"].append(2)
    assert workflow.metadata == {"a": [1]}


def test_a_workflow_has_a_json_schema_for_the_documentation() -> None:
    schema = Workflow.model_json_schema()
    assert schema["required"] == ["workflow_id", "version", "name", "steps"]
    assert schema["properties"]["version"]["pattern"].startswith("^(0|[1-9]")
    assert Step.__name__ in schema["$defs"]


def test_versions_sort_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.0", "0.0.1"], key=version_key) == ["0.0.1", "1.9.0", "1.10.0"]
    with pytest.raises(DefinitionError, match="MAJOR"):
        version_key("1.0")


def test_the_sinks_are_the_steps_that_nothing_depends_on() -> None:
    assert sinks(Workflow.model_validate(BODY)) == ["transform"]


def test_pydantics_error_becomes_the_packages_own() -> None:
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate(SMALL | {"steps": []})
    assert as_definition_error(caught.value).errors == [(("steps",), "Must have at least 1 items")]


def test_the_face_of_the_package_is_what_all_names() -> None:
    assert all(hasattr(definitions, name) for name in definitions.__all__)
    assert sorted(definitions.__all__, key=str.swapcase) == sorted(
        [
            *(
                "LLMOverrides",
                "RESERVED_WORKFLOW_IDS",
                "Reference",
                "Step",
                "Workflow",
                "as_definition_error",
            ),
            *("check", "check_inputs", "evaluate", "execution_order", "references", "render", "sinks"),
            *("upstream_of", "version_key"),
        ],
        key=str.swapcase,
    )


SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "required": ["source"],
    "properties": {"source": {"type": "string"}, "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}}},
    "$defs": {"row": {"type": "integer"}},
    "additionalProperties": False,
}


def input_errors(schema: JsonValue, inputs: JsonValue) -> list[tuple[tuple[str | int, ...], str]]:
    workflow = Workflow.model_validate(SMALL | ({"input_schema": schema} if schema else {}))
    with pytest.raises(DefinitionError) as caught:
        check_inputs(workflow, inputs)
    return caught.value.errors


def test_inputs_that_satisfy_the_schema_pass() -> None:
    check_inputs(Workflow.model_validate(SMALL), {"anything": [1]})
    check_inputs(Workflow.model_validate(SMALL | {"input_schema": SCHEMA}), {"source": "s3", "rows": [1]})


def test_inputs_that_do_not_satisfy_the_schema_are_refused_at_their_places() -> None:
    found = input_errors(SCHEMA, {"rows": [1, "two"], "more": 1})
    assert [loc for loc, _ in found] == [("inputs",), ("inputs",), ("inputs", "rows", 1)]
    assert {message for _, message in found} == {
        "'source' is a required property",
        "'more' is no property here: additional properties are not allowed",
        "'two' is not of type 'integer'",
    }


def test_inputs_that_are_no_object_are_refused() -> None:
    assert input_errors(None, [1]) == [(("inputs",), "The inputs of a run are a JSON object")]


def test_inputs_that_can_not_be_kept_are_refused_with_and_without_a_schema() -> None:
    for schema in (None, SCHEMA):
        [(loc, message)] = input_errors(schema, {"a": [float("nan")]})
        assert loc == ("inputs", "a", 0)
        assert "NaN" in message


def test_a_long_value_is_not_quoted_whole() -> None:
    [(_, message)] = input_errors(SCHEMA, {"source": ["x" * 5000]})
    assert len(message) <= 300


def test_a_flood_of_errors_is_cut_short() -> None:
    assert len(input_errors(SCHEMA, {"source": "s", "rows": ["x"] * 5000})) == 50


def test_a_schema_that_refers_to_itself_without_end_is_an_error_and_no_crash() -> None:
    [(_, message)] = input_errors({"type": "object", "allOf": [{"$ref": "#"}]}, {"a": 1})
    assert "without end" in message


def test_a_schema_is_never_fetched_from_anywhere() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        reference = f"http://127.0.0.1:{server.server_port}/schema"
        # Such a schema is refused in a definition; this is the wall behind that one.
        [violation] = value_violations({"type": "object", "$ref": reference}, {})
        server.shutdown()
    assert reference in violation.msg
    assert asked == []


def test_a_default_must_satisfy_its_own_schema() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer", "default": "one"}}, "required": ["y"]}
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate({**SMALL, "input_schema": schema})
    (error,) = caught.value.errors()
    assert error["loc"] == ("input_schema", "properties", "x", "default")
    assert "'one' is not of type 'integer'" in error["msg"]


def test_a_scheduled_workflow_has_a_default_for_each_required_input() -> None:
    schema = {"type": "object", "properties": {"x": {"default": 1}, "y": {}}, "required": ["x", "y"]}
    assert Workflow.model_validate({**SMALL, "input_schema": schema})
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate({**SMALL, "input_schema": schema, "schedule": "@daily"})
    (error,) = caught.value.errors()
    assert error["loc"] == ("input_schema", "required", 1)
    assert "Input 'y' is required and has no default" in error["msg"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"pattern": "^(a|aa)+$"}}},
        {"type": "object", "patternProperties": {"^(a|aa)+$": {}}},
        {"type": "object", "patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": False},
    ],
)
def test_a_pattern_that_backtracks_without_end_is_given_up(schema: dict[str, JsonValue]) -> None:
    hostile = "a" * 64 + "!"
    (violation,) = value_violations(schema, {"x": hostile} if "properties" in schema else {hostile: 1})
    assert "can't be matched" in violation.msg


def test_patterns_are_searched_for_in_texts_and_names() -> None:
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"x": {"pattern": "b"}},
        "patternProperties": {"^n_": {"type": "integer"}},
    }
    assert value_violations(schema, {"x": "abc", "n_1": 1, "m": "text"}) == []
    assert [item.loc for item in value_violations(schema, {"x": "c", "n_1": "one"})] == [("n_1",), ("x",)]
    assert value_violations(schema, {"x": 7}) == []


def test_additional_properties_are_those_that_no_name_and_no_pattern_covers() -> None:
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"x": {}},
        "patternProperties": {"^n_": {}},
    }
    given: dict[str, JsonValue] = {"x": 1, "n_1": 1, "y": "text"}
    (violation,) = value_violations({**schema, "additionalProperties": False}, given)
    assert "'y' is no property here" in violation.msg
    (violation,) = value_violations({**schema, "additionalProperties": {"type": "integer"}}, given)
    assert violation.loc == ("y",)
    assert value_violations({**schema, "additionalProperties": True}, given) == []
