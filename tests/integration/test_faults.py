"""Providers that fail, answers that attack, users who stop a run: against real Airflow processes."""

import json

import pytest

pytestmark = pytest.mark.integration

MODELS = ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]
STEP = {"step_id": "a", "llm": {"models": MODELS}, "retry": {"max_attempts": 2, "backoff_seconds": 0.1}}


def step_of_its_own(name):
    """A step whose models no other test has asked: the triggerer's breakers remember failures."""
    return {**STEP, "llm": {"models": [f"openai:gpt-{name}", f"anthropic:claude-{name}"]}}


HOSTILE = {"__classname__": "x", "__version__": 1, "__data__": {}}


@pytest.mark.parametrize(
    ("name", "fault", "error"),
    [
        ("server-error", {"status": 500}, 500),
        ("rate-limit", {"status": 429, "retry_after": 1}, 429),
        ("dropped", {"drop": "before"}, None),
    ],
)
def test_a_failing_openai_falls_back_to_anthropic_and_both_are_on_record(sim, name, fault, error):
    sim.rules({"match": {"provider": "openai"}, **fault})
    execution = sim.run(f"fallback-{name}", step_of_its_own(name))
    assert execution["status"] == "completed"
    (step,) = execution["steps"]
    assert step["provider"] == "anthropic"
    assert [(one["provider"], one["outcome"], one["http_status"]) for one in step["attempts"]] == [
        ("openai", "error", error),
        ("openai", "error", error),
        ("anthropic", "ok", None),
    ]


def test_with_both_down_the_execution_fails_naming_each_and_no_worker_ran(sim):
    sim.rules(
        {"match": {"provider": "openai"}, "status": 500}, {"match": {"provider": "anthropic"}, "status": 529}
    )
    execution = sim.run("both-down", step_of_its_own("down"), {"step_id": "b", "depends_on": ["a"]})
    assert execution["status"] == "failed"
    for part in ("Step 'a' failed", "openai:gpt-down", "HTTP 500", "anthropic:claude-down", "HTTP 529"):
        assert part in execution["error"]
    first, second = execution["steps"]
    assert (first["status"], second["status"]) == ("failed", "skipped")
    assert second["error"] == "Not run: step 'a' failed"
    assert len(first["attempts"]) == len(sim.calls()) == 2 * 2 * 2
    tasks = sim.tasks(execution["dag_id"], execution["dag_run_id"])
    assert {(task["pid"], task["hostname"]) for task in tasks.values()} == {(None, "")}
    log = sim.task_log(execution["dag_id"], execution["dag_run_id"], "a")
    assert any("openai:gpt-down failed after" in str(line.get("event")) for line in log)


def test_a_bad_request_is_sent_once_whatever_max_attempts_says(sim):
    sim.rules({"status": 400, "message": "no good"})
    execution = sim.run("bad-request", {**STEP, "retry": {"max_attempts": 20, "backoff_seconds": 0}})
    assert execution["status"] == "failed"
    assert "no good" in execution["error"]
    assert len(sim.calls()) == 1


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("classname", json.dumps(HOSTILE)),
        ("type-var", '{"__type": "dag", "__var": {"x": 1}}'),
        ("nul", "nul \0, half a pair \ud800"),
    ],
)
def test_a_hostile_answer_arrives_and_the_triggerer_lives(sim, name, answer):
    pid = sim.stack.pid("triggerer")
    sim.rules({"answer": answer})
    execution = sim.run(f"hostile-{name}", STEP, {**STEP, "step_id": "b", "depends_on": ["a"]})
    assert execution["status"] == "completed"
    expected = answer.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert [step["output"] for step in execution["steps"]] == [expected, expected]
    assert sim.stack.pid("triggerer") == pid


def test_airflows_reserved_keys_in_a_definition_and_in_inputs_arrive_as_text(sim):
    told = json.dumps(HOSTILE, indent=2)
    sim.rules({"match": {"contains": '"__classname__": "x"'}, "answer": "as text"})
    hostile = {**HOSTILE, "nested": {"__type": "dag", "__var": {}}}
    execution = sim.run(
        "hostile-inputs", {**STEP, "inputs": {"x": hostile}}, inputs={"y": hostile, **HOSTILE}
    )
    assert execution["status"] == "completed", told
    assert execution["outputs"] == {"a": "as text"}
    assert execution["inputs"] == {"y": hostile, **HOSTILE}


def test_a_step_that_a_user_fails_closes_its_call(sim):
    sim.rules({"latency": 8})
    sim.post("killed", {**STEP, "retry": {"max_attempts": 1}})
    execution_id = sim.execute("killed")
    sim.until(sim.calls, bool)
    running = sim.status(execution_id)
    path = f"/api/v2/dags/{running['dag_id']}/dagRuns/{running['dag_run_id']}"
    assert sim.airflow.patch(path, json={"state": "failed"}).status_code == 200
    assert sim.ended(execution_id)["status"] == "failed"
    (call,) = sim.until(sim.calls, lambda calls: calls[0]["finished"] is not None)
    assert call["disconnected"]


def test_a_refused_connection_falls_back_too(sim):
    sim.command(
        "connections",
        "add",
        "cognitionos_llm_default",
        "--conn-type",
        "cognitionos_llm",
        "--conn-extra",
        json.dumps({"openai_base_url": "http://127.0.0.1:9/v1"}),
    )
    try:
        # A triggerer believes a connection for 30 s; a new one has to read it.
        sim.stack.restart("triggerer")
        execution = sim.run("refused", STEP)
    finally:
        sim.command("connections", "delete", "cognitionos_llm_default")
        sim.stack.restart("triggerer")
    assert execution["status"] == "completed"
    (step,) = execution["steps"]
    assert [(one["provider"], one["error_class"]) for one in step["attempts"]] == [
        ("openai", "connection"),
        ("openai", "connection"),
        ("anthropic", None),
    ]
