"""Executions over HTTP, as long as Airflow works: start one, and read how it goes."""

import json
import threading
from contextlib import contextmanager

import jsonschema
import pytest
from airflow.models.dagrun import DagRun
from airflow_rows import NOON
from definitions.test_rules import workflow
from sqlalchemy import event

from api.deps import session_factory
from cognitionos_provider.llm.request import Attempt
from cognitionos_provider.store.tables import ExecutionRow

PATH = "/api/v3/workflows"
EXECUTE = f"{PATH}/execute"
DAG = "data-pipeline.v1.0.0"
STEPS = [{"step_id": "extract"}, {"step_id": "transform", "depends_on": ["extract"]}]


@pytest.fixture
def execute(client):
    def execute(workflow_id="data-pipeline", headers=None, **fields):
        return client.post(EXECUTE, json={"workflow_id": workflow_id, **fields}, headers=headers)

    return execute


def test_a_run_is_started_in_airflow_under_an_id_of_ours_with_its_inputs_as_conf(
    post, execute, rows, airflow
):
    post(workflow(budget_usd=0.5), rows)
    answer = execute(inputs={"x": [1, "é"]}, budget_usd=2.5, headers={"X-Request-ID": "my-trace"})
    assert answer.status_code == 202
    started = answer.json()
    assert answer.headers["location"] == f"{PATH}/executions/{started['execution_id']}"
    [asked] = airflow.seen
    assert asked["path"] == f"/api/v2/dags/{DAG}/dagRuns"
    assert asked["headers"]["Authorization"].startswith("Bearer ey")
    assert asked["body"] == {
        "dag_run_id": f"cognitionos__{started['execution_id']}",
        "logical_date": None,
        "conf": {
            "x": [1, "é"],
            "__cognitionos__": {
                "execution_id": started["execution_id"],
                "trace_id": "my-trace",
                "budget_usd": "0.5",
            },
        },
    }
    assert (started["status"], started["user_id"], started["trace_id"]) == (
        "pending",
        "Anonymous",
        "my-trace",
    )
    assert (started["inputs"], started["dag_id"]) == ({"x": [1, "é"]}, DAG)
    [row] = rows.all(ExecutionRow)
    assert (row["dag_run_id"], float(row["budget_usd"])) == (asked["body"]["dag_run_id"], 0.5)


def test_a_run_can_lower_the_budget_and_needs_none(post, execute, rows, airflow):
    post(workflow(budget_usd=0.5), rows)
    post(workflow(workflow_id="free"), rows)
    execute(budget_usd=0.25)
    execute("free", budget_usd=3)
    execute("free")
    confs = [asked["body"]["conf"]["__cognitionos__"].get("budget_usd") for asked in airflow.seen]
    assert confs == ["0.25", "3.0", None]


@pytest.mark.parametrize("asked", [{}, {"workflow_version": "latest"}], ids=["without", "by name"])
def test_the_latest_version_is_run(post, execute, rows, asked):
    for version, status in (
        ("1.0.0", "active"),
        ("1.10.0", "active"),
        ("1.9.0", "active"),
        ("2.0.0", "draft"),
    ):
        post(workflow(version=version, status=status), rows)
    assert execute(**asked).json()["workflow_version"] == "1.10.0"


@pytest.mark.parametrize(
    ("asked", "fragment"),
    [
        ({"workflow_id": "nothing"}, "There is no workflow 'nothing'"),
        ({"workflow_version": "3.0.0"}, "has no version 3.0.0; it has 1.0.0"),
        ({"workflow_id": "drafted"}, "has no active version"),
    ],
)
def test_what_is_unknown_is_404(post, execute, problem, rows, asked, fragment):
    post(workflow(), rows)
    post(workflow(workflow_id="drafted", status="draft"))
    assert fragment in problem(execute(**asked), 404)["detail"]


def test_a_version_that_is_not_active_is_a_conflict(post, execute, rows, problem):
    post(workflow(status="draft"), rows)
    detail = problem(execute(workflow_version="1.0.0"), 409)["detail"]
    assert "data-pipeline 1.0.0 is draft; only an active one can be started" in detail


def test_inputs_against_the_schema_are_422_and_start_nothing(post, execute, rows, airflow, problem):
    schema = {
        "type": "object",
        "required": ["x"],
        "properties": {"x": {"type": "integer"}, "y": {"maxLength": 1}},
    }
    post(workflow(input_schema=schema), rows)
    found = problem(execute(inputs={"x": "one", "y": "ab"}), 422)["errors"]
    assert [error["loc"] for error in found] == [["body", "inputs", "x"], ["body", "inputs", "y"]]
    assert "'one' is not of type 'integer'" in found[0]["msg"]
    assert "'x' is a required property" in problem(execute(), 422)["detail"]
    assert (airflow.seen, rows.all(ExecutionRow)) == ([], [])


def test_the_reserved_key_is_no_input(post, execute, rows, problem):
    post(workflow(), rows)
    found = problem(execute(inputs={"__cognitionos__": {"budget_usd": "9"}}), 422)
    assert found["errors"][0]["loc"] == ["body", "inputs", "__cognitionos__"]
    assert "reserved" in found["detail"]


def finished(rows, execution, steps=2):
    run = rows.run(execution["dag_id"], execution["dag_run_id"], "success", end_date=NOON)
    where = run, execution["dag_id"], execution["dag_run_id"]
    calls = [
        Attempt(
            provider="openai",
            model="gpt-4",
            outcome="error",
            http_status=500,
            error_class="InternalServerError",
        ),
        Attempt(provider="anthropic", model="claude", outcome="ok", cost_usd="0.5", latency_ms=12),
    ]
    for number in range(steps):
        task = execution["steps"][number]["step_id"]
        rows.task(execution["dag_id"], execution["dag_run_id"], task, "success", end_date=NOON)
        rows.output(*where, task, value={"__classname__": task})
        rows.journal(*where, task, attempts=calls)


def test_an_execution_tells_how_its_run_went(client, post, execute, rows):
    post(workflow(steps=STEPS), rows)
    started = execute(inputs={"x": 1}).json()
    where = f"{PATH}/executions/{started['execution_id']}"
    assert client.get(where).json() == started
    finished(rows, started)
    shown = client.get(where).json()
    assert (shown["status"], shown["outputs"]) == ("completed", {"transform": {"__classname__": "transform"}})
    assert shown["started_at"] == shown["completed_at"] == "2026-01-01T12:00:00Z"
    assert (shown["cost_usd"], shown["unpriced_calls"], shown["inputs"]) == (1.0, 0, {"x": 1})
    step = shown["steps"][0]
    assert (step["status"], step["provider"], step["model"], step["cost_usd"]) == (
        "completed",
        "anthropic",
        "claude",
        0.5,
    )
    assert [call["outcome"] for call in step["attempts"]] == ["error", "ok"]
    assert step["attempts"][0]["http_status"] == 500
    document = client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Execution", "components": document["components"]}
    for execution in (started, shown):
        jsonschema.Draft202012Validator(schema).validate(execution)


def test_an_execution_is_found_however_its_id_is_written(client, post, execute, rows):
    post(workflow(), rows)
    execution_id = execute().json()["execution_id"]
    assert client.get(f"{PATH}/executions/{execution_id.upper()}").json()["execution_id"] == execution_id


@contextmanager
def counted():
    statements = []

    def note(*arguments):
        statements.append(arguments[2])

    engine = session_factory().kw["bind"]
    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("steps", [1, 50])
def test_an_execution_is_read_in_a_fixed_number_of_queries(client, post, execute, rows, steps):
    post(workflow(steps=[{"step_id": f"s{number}"} for number in range(steps)]), rows)
    started = execute().json()
    finished(rows, started, steps)
    with counted() as statements:
        shown = client.get(f"{PATH}/executions/{started['execution_id']}").json()
    assert len(shown["outputs"]) == steps
    # The execution, the workflow and its definition; the run, its tasks, XComs and task states.
    assert len(statements) == 7


def test_a_list_is_a_fixed_number_of_queries(client, post, rows):
    for number in range(5):
        post(workflow(workflow_id=f"w{number}"), rows)
    with counted() as statements:
        client.get(PATH)
    assert len(statements) == 4
    assert not any("cognitionos_workflow.definition" in statement for statement in statements)


def test_a_workflow_that_was_just_posted_is_waited_for(start, rows, airflow):
    client = start(API_EXECUTE_WAIT_SECONDS="30")
    client.post(PATH, json=workflow()).raise_for_status()
    rows.clear_requests()
    answers = []

    def execute():
        answers.append(client.post(EXECUTE, json={"workflow_id": "data-pipeline"}))

    waiting = threading.Thread(target=execute)
    waiting.start()
    # The DAG processor may have died over the first request to parse the file: the one who waits asks again.
    while not rows.parsing_requests():
        assert waiting.is_alive()
    assert airflow.seen == []
    rows.dag(DAG)
    waiting.join(20)
    assert answers[0].status_code == 202


def test_a_wait_that_runs_out_is_503_and_starts_nothing(start, rows, airflow, problem):
    client = start(API_EXECUTE_WAIT_SECONDS="0.05")
    client.post(PATH, json=workflow()).raise_for_status()
    answer = client.post(EXECUTE, json={"workflow_id": "data-pipeline"})
    detail = problem(answer, 503)["detail"]
    assert "has not built data-pipeline.v1.0.0 within 0.05 s" in detail
    assert answer.headers["retry-after"] == "5"
    assert (airflow.seen, rows.all(ExecutionRow)) == ([], [])


def test_a_dag_that_cannot_be_built_is_a_conflict_with_the_reason(post, execute, rows, airflow, problem):
    post(workflow())
    rows.import_error(DAG, "Traceback\nDefinitionError: the reason\n")
    assert "DefinitionError: the reason" in problem(execute(), 409)["detail"]
    assert (airflow.seen, rows.all(ExecutionRow)) == ([], [])


def test_a_paused_dag_is_a_conflict(post, execute, rows, airflow, problem):
    post(workflow())
    rows.dag(DAG, is_paused=True)
    assert "is paused; unpause it" in problem(execute(), 409)["detail"]
    assert (airflow.seen, rows.all(ExecutionRow)) == ([], [])


def test_each_execution_is_a_run_of_its_own(post, execute, rows, airflow):
    post(workflow(), rows)
    assert execute().json()["execution_id"] != execute().json()["execution_id"]
    assert len({asked["body"]["dag_run_id"] for asked in airflow.seen}) == 2
    assert rows.all(DagRun) == []
    assert [json.loads(row["inputs"]) for row in rows.all(ExecutionRow)] == [{}, {}]
