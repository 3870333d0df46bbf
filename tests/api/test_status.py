"""Airflow's rows of a run -> the execution that the facade shows."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow_rows import journal_text

from api.airflow_db import Run, TaskRow
from api.status import show_execution
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.llm.request import Attempt, Usage
from cognitionos_provider.output import encode_output
from cognitionos_provider.store.tables import ExecutionRow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=7)

ROW = ExecutionRow(
    execution_id="6a0f6f3e-0000-4000-8000-000000000000",
    workflow_id="w",
    workflow_version="1.0.0",
    dag_id="w.v1.0.0",
    dag_run_id="cognitionos__1",
    inputs='{"x": 1}',
    user_id="me",
    trace_id="t",
    created_at=NOON,
)


def workflow(*steps, **fields):
    body = {
        "workflow_id": "w",
        "version": "1.0.0",
        "name": "W",
        "steps": steps or [{"step_id": "a"}],
        **fields,
    }
    return Workflow.model_validate(body)


CHAIN = workflow(
    {"step_id": "a"}, {"step_id": "b", "depends_on": ["a"]}, {"step_id": "c", "depends_on": ["b"]}
)


def run(state="running", outputs=None, records=None, **tasks):
    rows = {name: TaskRow(task_state, NOON, LATER) for name, task_state in tasks.items()}
    return Run(state, NOON, LATER, rows, outputs or {}, records or {})


def call(outcome="ok", cost="0.25", tokens=10, **fields):
    usage = Usage(prompt_tokens=tokens, completion_tokens=1, total_tokens=tokens + 1) if tokens else None
    paid = None if cost is None else Decimal(cost)
    given = {"provider": "openai", "model": "gpt-4", "outcome": outcome, "cost_usd": paid, "usage": usage}
    return Attempt(**given | fields)


record = journal_text


def test_a_run_that_airflow_does_not_have_yet_is_pending_with_all_its_steps():
    shown = show_execution(ROW, CHAIN, None)
    assert (shown.status, [step.status for step in shown.steps]) == ("pending", ["pending"] * 3)
    assert (shown.inputs, shown.user_id, shown.trace_id, shown.started_at) == ({"x": 1}, "me", "t", None)


RUN_STATES = {"queued": "pending", "running": "running", "success": "completed", "failed": "failed"}


@pytest.mark.parametrize("state", list(DagRunState))
def test_each_state_of_a_run_has_its_status(state):
    assert show_execution(ROW, CHAIN, run(state.value)).status == RUN_STATES[state.value]


STEP_STATES = {
    "queued": "pending",
    "scheduled": "pending",
    "deferred": "running",
    "awaiting_input": "running",
    "running": "running",
    "restarting": "running",
    "success": "completed",
    "failed": "failed",
    "skipped": "skipped",
    "upstream_failed": "skipped",
    "removed": "skipped",
    "up_for_retry": "retrying",
    "up_for_reschedule": "retrying",
    None: "pending",
    "a state of a later Airflow": "pending",
}


@pytest.mark.parametrize(
    "state", [*(state.value for state in TaskInstanceState), None, "a state of a later Airflow"]
)
def test_each_state_of_a_task_has_its_status(state):
    [step] = show_execution(ROW, workflow(), run(a=state)).steps
    assert step.status == STEP_STATES[state]


def test_a_step_has_ended_when_its_task_has():
    ended = {
        state: show_execution(ROW, workflow(), run(a=state)).steps[0].completed_at for state in STEP_STATES
    }
    assert {STEP_STATES[state] for state, at in ended.items() if at} == {"completed", "failed", "skipped"}


def test_a_task_that_is_missing_is_pending():
    [step] = show_execution(ROW, workflow(), run()).steps
    assert (step.status, step.started_at) == ("pending", None)


def test_outputs_are_those_of_the_steps_that_nothing_depends_on_and_that_completed():
    diamond = workflow(
        {"step_id": "a"}, {"step_id": "b", "depends_on": ["a"]}, {"step_id": "c", "depends_on": ["a"]}
    )
    outputs = {name: encode_output({"of": name}) for name in "abc"}
    shown = show_execution(ROW, diamond, run(outputs=outputs, a="success", b="success", c="running"))
    assert shown.outputs == {"b": {"of": "b"}}
    assert [step.output for step in shown.steps] == [{"of": "a"}, {"of": "b"}, None]


def test_cost_and_usage_are_summed_over_all_calls_of_all_tries_also_of_those_that_failed():
    records = {
        "a": [
            record(call("error", cost="0.1", tokens=0), error="first"),
            record(call(cost="0.2", provider="anthropic")),
        ],
        "b": [
            record(call(cost=None), call("error", cost=None, tokens=0), call("skipped", cost=None, tokens=0))
        ],
    }
    shown = show_execution(ROW, CHAIN, run(records=records, a="success", b="success"))
    assert shown.cost_usd == 0.3
    assert shown.unpriced_calls == 1
    assert shown.usage == Usage(prompt_tokens=20, completion_tokens=2, total_tokens=22)
    first, second, third = shown.steps
    assert (first.cost_usd, first.usage.total_tokens, first.provider, len(first.attempts)) == (
        0.3,
        11,
        "anthropic",
        2,
    )
    assert (second.cost_usd, second.usage.total_tokens, second.provider) == (None, 11, "openai")
    assert (third.cost_usd, third.usage, third.provider, third.attempts) == (None, None, None, [])


def test_without_a_call_a_run_cost_nothing():
    shown = show_execution(ROW, CHAIN, run())
    assert (shown.cost_usd, shown.unpriced_calls, shown.usage.total_tokens) == (0.0, 0, 0)


def test_a_step_that_waits_for_its_next_try_tells_why():
    [step] = show_execution(
        ROW, workflow(), run(records={"a": [record(error="503 from openai")]}, a="up_for_retry")
    ).steps
    assert (step.status, step.error, step.completed_at) == ("retrying", "503 from openai", None)


def test_the_error_of_an_earlier_try_is_not_that_of_a_step_that_completed():
    records = {"a": [record(error="503 from openai"), record(call(), agent_id="writer")]}
    [step] = show_execution(ROW, workflow(), run(records=records, a="success")).steps
    assert (step.error, step.agent_id) == (None, "writer")


def test_the_steps_that_were_not_run_name_the_one_that_failed():
    records = {"a": [record(error="boom")]}
    shown = show_execution(
        ROW, CHAIN, run("failed", records=records, a="failed", b="upstream_failed", c="upstream_failed")
    )
    assert [step.error for step in shown.steps] == [
        "boom",
        "Not run: step 'a' failed",
        "Not run: step 'b' was skipped",
    ]
    assert shown.error == "Step 'a' failed: boom"


def test_a_step_that_its_own_condition_skipped_has_no_error():
    conditional = workflow({"step_id": "a", "condition": "inputs.x"}, {"step_id": "b", "depends_on": ["a"]})
    for state in ("success", "failed"):
        shown = show_execution(ROW, conditional, run(state, a="skipped", b="skipped"))
        assert [step.error for step in shown.steps] == [None, "Not run: step 'a' was skipped"]


def test_a_run_that_was_ended_says_so_on_the_steps_it_never_reached():
    shown = show_execution(ROW, CHAIN, run("failed", a="success", b="skipped", c="skipped"))
    assert [step.error for step in shown.steps] == [
        None,
        "Not run: the run was ended before",
        "Not run: step 'b' was skipped",
    ]
    assert shown.error == "The run was failed by a user"
    timed = CHAIN.model_copy(update={"timeout_seconds": 2.5})
    error = show_execution(ROW, timed, run("failed", a="success", b="skipped", c="skipped")).error
    assert error == "The run did not end within its 2.5 s, or was failed by a user"


def test_a_task_that_was_failed_from_outside_points_at_its_log():
    shown = show_execution(ROW, workflow(), run("failed", a="failed"))
    assert "Airflow's task log" in shown.steps[0].error
    assert shown.error.startswith("Step 'a' failed: The task was failed from outside")


GARBAGE_RECORDS = [None, 1, {"attempts": []}, "", "no json", "[]", '{"attempts": 1}', "[" * 5000, "\ud800"]


@pytest.mark.parametrize("garbage", GARBAGE_RECORDS, ids=range(len(GARBAGE_RECORDS)))
def test_a_record_that_somebody_else_wrote_is_ignored(garbage):
    records = {"a": [garbage, record(call(), error="mine")]}
    [step] = show_execution(ROW, workflow(), run(records=records, a="failed")).steps
    assert (len(step.attempts), step.error) == (1, "mine")


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


BAD_OUTPUTS = [
    float("nan"),
    {"a": [float("-inf")]},
    "json:no json",
    '"json:no json',
    "json:" + "[" * 5000,
    deep(2000),
]


@pytest.mark.parametrize("stored", BAD_OUTPUTS, ids=range(len(BAD_OUTPUTS)))
def test_an_output_that_is_no_json_is_not_shown_and_harms_nothing_else(stored):
    shown = show_execution(ROW, workflow(), run("success", outputs={"a": stored}, a="success"))
    assert shown.status == "completed"
    assert shown.steps[0].output is None
    assert "its XCom in Airflow" in shown.steps[0].error
    json.loads(shown.model_dump_json())


@pytest.mark.parametrize(
    ("stored", "output"),
    [
        ({"a": 1}, {"a": 1}),
        ("as it is", "as it is"),
        (None, None),
        ("half \ud800 and \0", "half \ufffd and \ufffd"),
        (deep(100), deep(100)),
    ],
    ids=["object", "text", "nothing", "unstorable", "deep"],
)
def test_an_output_that_was_set_by_somebody_else_is_shown_as_it_is(stored, output):
    [step] = show_execution(ROW, workflow(), run(outputs={"a": stored}, a="success")).steps
    assert (step.output, step.error) == (output, None)
    step.model_dump_json().encode()
