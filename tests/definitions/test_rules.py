"""One row for each rule of the REST contract's tables "Workflows" and "A step"."""

from typing import Any

import pytest
from pydantic import ValidationError

from cognitionos_provider.definitions import Workflow


def workflow(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "workflow_id": "data-pipeline",
        "version": "1.0.0",
        "name": "Data Processing Pipeline",
        "steps": [{"step_id": "extract"}],
    }
    return {name: value for name, value in (body | fields).items() if value is not ...}


def step(**fields: Any) -> dict[str, Any]:
    return workflow(steps=[{"step_id": "extract"} | fields])


def steps(*bodies: dict[str, Any]) -> dict[str, Any]:
    return workflow(steps=list(bodies))


def errors_of(body: object) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate(body)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


EXTRACT = {"step_id": "extract"}
OPERATOR = "airflow.providers.standard.operators.bash.BashOperator"

ONE_FIELD = {
    # A workflow
    "no id": (workflow(workflow_id=...), ("workflow_id",), "required"),
    "id with a space": (workflow(workflow_id="a b"), ("workflow_id",), "'a b' is no workflow id"),
    "id that starts with a dash": (
        workflow(workflow_id="-a"),
        ("workflow_id",),
        "starts with a letter or digit",
    ),
    "id with a newline": (workflow(workflow_id="a\n"), ("workflow_id",), "is no workflow id"),
    "empty id": (workflow(workflow_id=""), ("workflow_id",), "is no workflow id"),
    "id of 201 characters": (workflow(workflow_id="a" * 201), ("workflow_id",), "at most 200"),
    "id that is no text": (workflow(workflow_id=7), ("workflow_id",), "Must be a valid string"),
    "reserved execute": (workflow(workflow_id="execute"), ("workflow_id",), "reserved word"),
    "reserved executions": (workflow(workflow_id="executions"), ("workflow_id",), "reserved word"),
    "reserved validate": (workflow(workflow_id="validate"), ("workflow_id",), "reserved word"),
    "no version": (workflow(version=...), ("version",), "required"),
    "version of two parts": (workflow(version="1.0"), ("version",), "MAJOR.MINOR.PATCH"),
    "version with a leading zero": (workflow(version="1.01.0"), ("version",), "without leading zeros"),
    "version with 10 digits": (workflow(version="1.0.1234567890"), ("version",), "at most 9 digits"),
    "version with a pre-release": (workflow(version="1.0.0-rc1"), ("version",), "is no version"),
    "version in other digits": (workflow(version="1.0.٣"), ("version",), "is no version"),
    "version that is a number": (workflow(version=1.0), ("version",), "Must be a valid string"),
    "no name": (workflow(name=...), ("name",), "required"),
    "empty name": (workflow(name=""), ("name",), "Must not be empty"),
    "name with NUL": (workflow(name="a\0b"), ("name",), "NUL"),
    "name of 501 characters": (workflow(name="a" * 501), ("name",), "at most 500"),
    "description that is null": (workflow(description=None), ("description",), "Must be a valid string"),
    "description with half a character": (workflow(description="\ud800"), ("description",), "surrogate"),
    "tags that are a text": (workflow(tags="a"), ("tags",), "Must be a list"),
    "tag of 101 characters": (workflow(tags=["ok", "a" * 101]), ("tags", 1), "at most 100"),
    "empty tag": (workflow(tags=[""]), ("tags", 0), "Must not be empty"),
    "tag that is a number": (workflow(tags=[1]), ("tags", 0), "Must be a valid string"),
    "metadata that is a list": (workflow(metadata=[]), ("metadata",), "Must be a JSON object"),
    "metadata with NaN": (workflow(metadata={"a": [float("nan")]}), ("metadata", "a", 0), "NaN and Infinity"),
    "cron of four fields": (workflow(schedule="0 0 * *"), ("schedule",), "has 4 fields"),
    "cron of six fields": (workflow(schedule="* * * * * *"), ("schedule",), "has 6 fields"),
    "cron out of range": (workflow(schedule="61 * * * *"), ("schedule",), "no cron expression"),
    "cron in words": (workflow(schedule="every day at noon please"), ("schedule",), "no cron expression"),
    "cron with a random minute": (workflow(schedule="R 0 * * *"), ("schedule",), "random"),
    "cron with a hashed minute": (workflow(schedule="H(0-5) 0 * * *"), ("schedule",), "random"),
    "cron that never comes": (workflow(schedule="0 0 30 2 *"), ("schedule",), "never comes"),
    "unknown preset": (workflow(schedule="@dayly"), ("schedule",), "the presets are @hourly, @daily"),
    "empty schedule": (workflow(schedule=""), ("schedule",), "has 0 fields"),
    "status of later": (workflow(status="archived"), ("status",), "'active' or 'draft'"),
    "input_schema that is no schema": (
        workflow(input_schema={"type": "objec"}),
        ("input_schema", "type"),
        "valid",
    ),
    "input_schema of a list": (
        workflow(input_schema={"type": "array"}),
        ("input_schema",),
        '"type": "object"',
    ),
    "input_schema without type": (workflow(input_schema={}), ("input_schema",), '"type": "object"'),
    "input_schema that is true": (workflow(input_schema=True), ("input_schema",), "Must be a JSON object"),
    "input_schema with a bad pattern": (
        workflow(input_schema={"type": "object", "properties": {"a": {"pattern": "("}}}),
        ("input_schema", "properties", "a", "pattern"),
        "is no regular expression: missing )",
    ),
    "input_schema of another draft": (
        workflow(input_schema={"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}),
        ("input_schema", "$schema"),
        "draft 2020-12",
    ),
    "input_schema that leads out": (
        workflow(input_schema={"type": "object", "allOf": [{"$ref": "http://example.com/a"}]}),
        ("input_schema", "allOf", 0),
        "leads out of the schema",
    ),
    "input_schema that leads nowhere": (
        workflow(input_schema={"type": "object", "properties": {"default": {"$ref": "#/$defs/a"}}}),
        ("input_schema", "properties", "default"),
        "'#/$defs/a' leads nowhere",
    ),
    "budget of nothing": (workflow(budget_usd=0), ("budget_usd",), "greater than 0"),
    "budget without end": (workflow(budget_usd=float("inf")), ("budget_usd",), "finite"),
    "budget in words": (workflow(budget_usd="1"), ("budget_usd",), "valid number"),
    "unpriced maybe": (workflow(unpriced="maybe"), ("unpriced",), "'refuse' or 'allow'"),
    "no time for a run": (workflow(timeout_seconds=0), ("timeout_seconds",), "greater than 0"),
    "unknown time zone": (workflow(timezone="Europe/berlin"), ("timezone",), "did you mean 'Europe/Berlin'?"),
    "time zone that is a path": (workflow(timezone="../../etc/passwd"), ("timezone",), "no IANA time zone"),
    "time zone that is a folder": (workflow(timezone="America"), ("timezone",), "no IANA time zone"),
    "time zone of the machine": (workflow(timezone="localtime"), ("timezone",), "no IANA time zone"),
    "no runs": (workflow(max_active_runs=0), ("max_active_runs",), "greater than or equal to 1"),
    "runs that are true": (workflow(max_active_runs=True), ("max_active_runs",), "valid integer"),
    "steps left out": (workflow(steps=...), ("steps",), "required"),
    "no steps": (workflow(steps=[]), ("steps",), "at least 1"),
    "501 steps": (steps(*({"step_id": f"s{n}"} for n in range(501))), ("steps",), "at most 500"),
    "steps that are an object": (workflow(steps={}), ("steps",), "Must be a list"),
    "unknown field": (workflow(tag=["a"]), ("tag",), "'tag' is no field of a workflow; did you mean 'tags'?"),
    # A step
    "step that is a text": (workflow(steps=["extract"]), ("steps", 0), "Must be a JSON object"),
    "step without id": (workflow(steps=[{}]), ("steps", 0, "step_id"), "required"),
    "step id with a dot": (step(step_id="a.b"), ("steps", 0, "step_id"), "'a.b' is no step id"),
    "step id of 101 characters": (step(step_id="a" * 101), ("steps", 0, "step_id"), "at most 100"),
    "empty step name": (step(name=""), ("steps", 0, "name"), "Must not be empty"),
    "empty capability": (step(agent_capability=""), ("steps", 0, "agent_capability"), "Must not be empty"),
    "inputs that are a list": (step(inputs=[1]), ("steps", 0, "inputs"), "Must be a JSON object"),
    "inputs with Infinity": (step(inputs={"a": float("inf")}), ("steps", 0, "inputs", "a"), "Infinity"),
    "inputs too deep": (
        step(inputs=nested(5000)),
        ("steps", 0, "inputs", *["a"] * 64),
        "more than 64 levels",
    ),
    "inputs with NUL": (step(inputs={"a": "\0"}), ("steps", 0, "inputs", "a"), "NUL"),
    "inputs with half a character": (step(inputs={"a": "é\ud800"}), ("steps", 0, "inputs", "a"), "surrogate"),
    "inputs with a NUL key": (step(inputs={"\0": 1}), ("steps", 0, "inputs"), "NUL"),
    "inputs with a number as key": (step(inputs={1: 1}), ("steps", 0, "inputs"), "The key 1 is no text"),
    "inputs that are no JSON": (step(inputs={"a": {1}}), ("steps", 0, "inputs", "a"), "of type set"),
    "dependencies that are a text": (step(depends_on="a"), ("steps", 0, "depends_on"), "Must be a list"),
    "no time for a step": (step(timeout_seconds=0), ("steps", 0, "timeout_seconds"), "greater than 0"),
    "time in words": (step(timeout_seconds="300"), ("steps", 0, "timeout_seconds"), "valid number"),
    "time of two years": (step(timeout_seconds=7e7), ("steps", 0, "timeout_seconds"), "less than or equal"),
    "no attempts": (step(retry={"max_attempts": 0}), ("steps", 0, "retry", "max_attempts"), "equal to 1"),
    "negative wait": (
        step(retry={"backoff_seconds": -1}),
        ("steps", 0, "retry", "backoff_seconds"),
        "equal to 0",
    ),
    "retry with an unknown field": (
        step(retry={"tries": 1}),
        ("steps", 0, "retry", "tries"),
        "is no field here",
    ),
    "empty condition": (step(condition=""), ("steps", 0, "condition"), "Must not be empty"),
    "blank condition": (step(condition="  "), ("steps", 0, "condition"), "there is no expression"),
    "condition that is no expression": (step(condition="a b"), ("steps", 0, "condition"), "unexpected 'b'"),
    "condition of two expressions": (
        step(condition="{{ inputs.a }} == {{ inputs.b }}"),
        ("steps", 0, "condition"),
        "is not one expression",
    ),
    "condition that is true": (step(condition=True), ("steps", 0, "condition"), "Must be a valid string"),
    "for_each that is a list": (step(for_each=[1]), ("steps", 0, "for_each"), "Must be a valid string"),
    "for_each that is no expression": (step(for_each="inputs."), ("steps", 0, "for_each"), "{{ inputs. }}"),
    "no concurrency": (
        step(for_each="inputs.a", max_concurrency=0),
        ("steps", 0, "max_concurrency"),
        "greater than or equal to 1",
    ),
    "no items": (
        step(for_each="inputs.a", max_items=0),
        ("steps", 0, "max_items"),
        "greater than or equal to 1",
    ),
    "on_item_error": (
        step(for_each="inputs.a", on_item_error="skip"),
        ("steps", 0, "on_item_error"),
        "'fail' or 'keep'",
    ),
    "concurrency without for_each": (
        step(max_concurrency=2),
        ("steps", 0, "max_concurrency"),
        "option of for_each",
    ),
    "items without for_each": (step(max_items=2), ("steps", 0, "max_items"), "option of for_each"),
    "policy without for_each": (
        step(on_item_error="fail"),
        ("steps", 0, "on_item_error"),
        "option of for_each",
    ),
    "no models": (step(llm={"models": []}), ("steps", 0, "llm", "models"), "at least 1"),
    "empty model": (step(llm={"models": ["gpt-4", ""]}), ("steps", 0, "llm", "models", 1), "not be empty"),
    "hot": (step(llm={"temperature": 2.1}), ("steps", 0, "llm", "temperature"), "less than or equal to 2"),
    "cold": (step(llm={"temperature": -0.1}), ("steps", 0, "llm", "temperature"), "equal to 0"),
    "no tokens": (step(llm={"max_tokens": 0}), ("steps", 0, "llm", "max_tokens"), "equal to 1"),
    "llm with an unknown field": (
        step(llm={"model": "gpt-4"}),
        ("steps", 0, "llm", "model"),
        "'model' is no field of llm; did you mean 'models'?",
    ),
    "prompt with a bad template": (
        step(llm={"prompt": "{{ a( }}"}),
        ("steps", 0, "llm", "prompt"),
        "'{{ a( }}'",
    ),
    "output_schema that is no schema": (
        step(output_schema={"type": "object", "required": "a"}),
        ("steps", 0, "output_schema", "required"),
        "no valid JSON Schema",
    ),
    "output_schema of a text": (
        step(output_schema={"type": "string"}),
        ("steps", 0, "output_schema"),
        "object",
    ),
    "unknown field of a step": (
        step(depend_on=[]),
        ("steps", 0, "depend_on"),
        "'depend_on' is no field of a step; did you mean 'depends_on'?",
    ),
    "operator without a path": (step(operator="BashOperator"), ("steps", 0, "operator"), "no dotted path"),
    "operator with a call": (step(operator="os.system('x')"), ("steps", 0, "operator"), "no dotted path"),
    "arguments without operator": (step(arguments={}), ("steps", 0, "arguments"), "name one in 'operator'"),
    "operator with llm": (step(operator=OPERATOR, llm={}), ("steps", 0, "llm"), "is for LLM steps"),
    "operator with for_each": (
        step(operator=OPERATOR, for_each="inputs.a"),
        ("steps", 0, "for_each"),
        "LLM steps",
    ),
    "operator with output_schema": (
        step(operator=OPERATOR, output_schema={"type": "object"}),
        ("steps", 0, "output_schema"),
        "is for LLM steps",
    ),
    "operator with inputs": (step(operator=OPERATOR, inputs={"a": 1}), ("steps", 0, "inputs"), "'arguments'"),
    "operator with a capability": (
        step(operator=OPERATOR, agent_capability="sql"),
        ("steps", 0, "agent_capability"),
        "is for LLM steps",
    ),
    "bad template in arguments": (
        step(operator=OPERATOR, arguments={"env": ["{{ var.value.key }}"]}),
        ("steps", 0, "arguments", "env", 0),
        "'var' is unknown",
    ),
    # The graph
    "same id twice": (steps(EXTRACT, EXTRACT), ("steps", 1, "step_id"), "already that of step number 1"),
    "unknown dependency": (
        steps(EXTRACT, {"step_id": "transform", "depends_on": ["extrct"]}),
        ("steps", 1, "depends_on", 0),
        "Step 'transform' depends on 'extrct', which is no step of workflow data-pipeline 1.0.0; "
        "did you mean 'extract'?",
    ),
    "own dependency": (step(depends_on=["extract"]), ("steps", 0, "depends_on", 0), "depends on itself"),
    "dependency named twice": (
        steps(EXTRACT, {"step_id": "b", "depends_on": ["extract", "extract"]}),
        ("steps", 1, "depends_on", 1),
        "twice",
    ),
    "cycle": (
        steps(
            EXTRACT, {"step_id": "a", "depends_on": ["extract", "b"]}, {"step_id": "b", "depends_on": ["a"]}
        ),
        ("steps", 1, "depends_on", 1),
        "a -> b -> a",
    ),
    # Templates
    "step that is not upstream": (
        steps(EXTRACT, {"step_id": "b", "inputs": {"x": ["{{ steps.extract.output }}"]}}),
        ("steps", 1, "inputs", "x", 0),
        "add 'extract' to its depends_on",
    ),
    "step that does not exist": (
        steps(EXTRACT, {"step_id": "b", "depends_on": ["extract"], "condition": "steps.extrac.output"}),
        ("steps", 1, "condition"),
        "no step of workflow data-pipeline 1.0.0; did you mean 'extract'?",
    ),
    "own output": (
        step(inputs={"x": "{{ steps.extract.output }}"}),
        ("steps", 0, "inputs", "x"),
        "its own output",
    ),
    "unknown root": (
        step(inputs={"x": "{{ input.a }}"}),
        ("steps", 0, "inputs", "x"),
        "did you mean 'inputs'?",
    ),
    "item outside for_each": (step(inputs={"x": "{{ item }}"}), ("steps", 0, "inputs", "x"), "for_each"),
    "item in for_each itself": (step(for_each="item.rows"), ("steps", 0, "for_each"), "'item'"),
    "item in a condition": (step(for_each="inputs.a", condition="item"), ("steps", 0, "condition"), "'item'"),
    "more than the output": (
        steps(
            EXTRACT, {"step_id": "b", "depends_on": ["extract"], "inputs": {"x": "{{ steps.extract.cost }}"}}
        ),
        ("steps", 1, "inputs", "x"),
        "steps['extract'].output",
    ),
    "step named at run time": (
        step(inputs={"x": "{{ steps[inputs.a].output }}"}),
        ("steps", 0, "inputs", "x"),
        "named in the expression itself",
    ),
    "dash in a step id": (
        steps({"step_id": "get-data"}, {"step_id": "b", "condition": "steps.get-data.output"}),
        ("steps", 1, "condition"),
        "steps['get-data'].output",
    ),
    "digit at the start of a step id": (
        steps({"step_id": "2nd"}, {"step_id": "b", "condition": "steps.2nd.output"}),
        ("steps", 1, "condition"),
        "steps['2nd'].output",
    ),
    "template in a system prompt": (
        step(llm={"system_prompt": "You are {{ run.user }}"}),
        ("steps", 0, "llm", "system_prompt"),
        "run.execution_id",
    ),
}


@pytest.mark.parametrize(("body", "loc", "fragment"), ONE_FIELD.values(), ids=list(ONE_FIELD))
def test_a_broken_rule_is_the_one_error_and_it_names_the_field(
    body: dict[str, Any], loc: tuple[str | int, ...], fragment: str
) -> None:
    [(found, message)] = errors_of(body)
    assert found == loc
    assert fragment in message
    for jargon in ("Input should", "Tuple", "dictionary", "Value error", "Extra inputs"):
        assert jargon not in message


GOOD = {
    "longest ids": workflow(workflow_id="a" * 200, steps=[{"step_id": "9" * 100}]),
    "biggest version": workflow(version="999999999.0.999999999"),
    "preset": workflow(schedule="@quarterly"),
    "cron with names": workflow(schedule="*/7 6-9 1,15 mar mon-fri"),
    "leap day": workflow(schedule="0 0 29 2 *"),
    "no schedule": workflow(schedule=None),
    "time zone": workflow(timezone="America/Argentina/Buenos_Aires"),
    "deep metadata": workflow(metadata=nested(64)),
    "other scripts": workflow(name="データ 🚀", description="é", metadata={"ключ": "значение"}),
    "for_each": step(
        for_each="{{ inputs.rows }}", max_items=1, inputs={"x": "{{ item.a }}"}, llm={"prompt": "{{ item }}"}
    ),
    "operator": step(operator=OPERATOR, arguments={"bash_command": "echo {{ inputs.x }}"}, inputs={}),
    "foreign braces": step(llm={"prompt": "{% raw %} {# comment #} }} { {"}),
    "schema with references": workflow(
        input_schema={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://example.com/a",
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"const": {"$ref": "http://not.a.reference"}}},
            "$defs": {"a": {"type": "integer"}},
        }
    ),
    "the furthest step upstream": steps(
        EXTRACT,
        {"step_id": "b", "depends_on": ["extract"]},
        {"step_id": "c-1", "depends_on": ["b"], "inputs": {"x": "{{ steps.extract.output.rows[0] }}"}},
        {"step_id": "d", "depends_on": ["c-1"], "condition": "steps['c-1'].output == inputs.x"},
    ),
    "definition order is free": steps({"step_id": "b", "depends_on": ["extract"]}, EXTRACT),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=list(GOOD))
def test_what_the_rules_allow_is_accepted(body: dict[str, Any]) -> None:
    assert Workflow.model_validate(body).steps


def test_several_errors_of_all_kinds_come_at_once() -> None:
    found = errors_of(
        workflow(
            version="1",
            steps=[{"step_id": "a b", "name": ""}, {"step_id": "c", "retry": {"max_attempts": 0}}],
        )
    )
    assert [loc for loc, _ in found] == [
        ("version",),
        ("steps", 0, "step_id"),
        ("steps", 0, "name"),
        ("steps", 1, "retry", "max_attempts"),
    ]


def test_several_errors_of_graph_and_templates_come_at_once() -> None:
    found = errors_of(
        steps(
            {"step_id": "a", "depends_on": ["b", "nope"], "inputs": {"x": "{{ nope }}", "y": "{{ 'open }}"}},
            {"step_id": "b", "depends_on": ["a"]},
            {"step_id": "c", "depends_on": ["d"]},
            {"step_id": "d", "depends_on": ["c"]},
        )
    )
    assert [loc for loc, _ in found] == [
        ("steps", 0, "depends_on", 1),
        ("steps", 0, "depends_on", 0),
        ("steps", 2, "depends_on", 0),
        ("steps", 0, "inputs", "x"),
        ("steps", 0, "inputs", "y"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        workflow(**{f"unknown{n}": 1 for n in range(5000)}),
        workflow(tags=[1] * 50_000),
        workflow(metadata={"a": [float("nan")] * 50_000}),
        steps(*({"step_id": f"s{n}", "depends_on": [f"t{m}" for m in range(200)]} for n in range(500))),
        steps(*({"step_id": f"s{n}", "inputs": {"a": ["{{ nope }}"] * 50}} for n in range(500))),
    ],
    ids=["fields", "tags", "numbers", "dependencies", "templates"],
)
def test_a_hostile_body_gives_a_short_list_of_errors(body: dict[str, Any]) -> None:
    assert 1 <= len(errors_of(body)) <= 50


def test_an_error_never_quotes_what_was_posted_beyond_the_message() -> None:
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate(workflow(budget_usd="sk-secret", metadata={"key": "sk-secret"}))
    assert "sk-secret" not in str(caught.value)
    assert "sk-secret" not in repr(caught.value.errors())


def test_a_body_that_is_no_object_is_refused() -> None:
    assert errors_of([1]) == [((), "Must be a JSON object")]
