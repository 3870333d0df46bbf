"""Random bodies give 2xx or 4xx, and nothing half stored."""

import json

import pytest
from definitions.test_rules import workflow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.store.tables import ExecutionRow, WorkflowRow

PATH = "/api/v3/workflows"
JSON = {"Content-Type": "application/json"}

# Surrogates, NULs, NaN and huge numbers among them.
texts = st.text(st.characters(), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
ids = st.sampled_from(["a", "b", "c", "{{ inputs.x }}"]) | texts
steps = st.fixed_dictionaries(
    {"step_id": st.sampled_from("abc") | values},
    optional={
        "name": values,
        "inputs": st.dictionaries(texts, values, max_size=3) | values,
        "depends_on": st.lists(ids, max_size=2) | values,
        "timeout_seconds": st.floats() | values,
        "retry": st.dictionaries(st.sampled_from(["max_attempts", "backoff_seconds"]), values) | values,
        "condition": st.sampled_from(["inputs.x", "steps.a.output", "{{ 1 }}"]) | values,
        "for_each": st.sampled_from(["inputs.x", "1 +"]) | values,
        "llm": st.dictionaries(st.sampled_from(["models", "prompt", "temperature"]), values) | values,
        "output_schema": st.dictionaries(st.sampled_from(["type", "$ref", "properties", "pattern"]), values)
        | values,
    },
)
definitions = st.fixed_dictionaries(
    {
        "workflow_id": st.from_regex(r"[A-Za-z0-9]{1,3}", fullmatch=True) | values,
        "version": st.sampled_from(["1.0.0", "1.0.1"]) | values,
        "name": st.just("W") | values,
        "steps": st.lists(steps, max_size=3) | values,
    },
    optional={
        "description": values,
        "tags": st.lists(texts, max_size=3) | values,
        "metadata": st.dictionaries(texts, values, max_size=3) | values,
        "schedule": st.sampled_from(["@daily", "* * * * *"]) | values,
        "status": st.sampled_from(["active", "draft"]) | values,
        "budget_usd": st.floats() | values,
        "timezone": st.just("UTC") | values,
        "max_active_runs": st.integers() | values,
        "input_schema": st.fixed_dictionaries({"type": st.just("object")}, optional={"required": values})
        | values,
    },
)
runs = st.fixed_dictionaries(
    {"workflow_id": st.just("data-pipeline") | values},
    optional={
        "workflow_version": st.sampled_from(["1.0.0", "latest", "9.9.9"]) | values,
        "inputs": st.dictionaries(texts | st.just("__cognitionos__"), values, max_size=3) | values,
        "budget_usd": st.floats() | values,
    },
)
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(body=definitions | values)
def test_any_body_posted_is_stored_whole_or_refused(client, rows, problem, body):
    rows.clear()
    answer = client.post(PATH, content=json.dumps(body).encode(), headers=JSON)
    stored = rows.all(WorkflowRow)
    if answer.status_code == 201:
        [row] = stored
        assert Workflow.from_json(row["definition"]).dag_id == row["dag_id"]
        assert client.get(answer.headers["location"]).json() == answer.json()
        assert rows.parsing_requests() == ([f"{row['dag_id']}.py"] if row["status"] == "active" else [])
    else:
        assert problem(answer, 422)["errors"]
        assert stored == []
        assert rows.parsing_requests() == []


@many
@given(body=runs | values)
def test_any_body_executed_starts_a_run_or_is_refused(client, rows, airflow, problem, body):
    rows.clear()
    airflow.seen.clear()
    rows.dag("data-pipeline.v1.0.0")
    client.post(PATH, json=workflow()).raise_for_status()
    answer = client.post(f"{PATH}/execute", content=json.dumps(body).encode(), headers=JSON)
    if answer.status_code == 202:
        [row] = rows.all(ExecutionRow)
        [asked] = airflow.seen
        assert asked["body"]["dag_run_id"] == row["dag_run_id"]
        assert client.get(answer.headers["location"]).json() == answer.json()
    else:
        assert answer.status_code in (404, 422), answer.text
        problem(answer, answer.status_code)
        assert rows.all(ExecutionRow) == []
        assert airflow.seen == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("budget", [1e300, 5e-324, 999_999_999.999, 1e9])
def test_a_budget_that_no_column_holds_starts_a_run(client, post, rows, budget):
    post(workflow(), rows)
    answer = client.post(f"{PATH}/execute", json={"workflow_id": "data-pipeline", "budget_usd": budget})
    assert answer.status_code == 202, answer.text
