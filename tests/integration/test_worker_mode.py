"""``[cognitionos] execution_mode = worker``: the same step on a worker, through the same router."""

import pytest
from integration_client import Client, start_stack

pytestmark = pytest.mark.integration

STEP = {
    "step_id": "a",
    "llm": {"models": ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]},
    "retry": {"max_attempts": 2, "backoff_seconds": 0.1},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with start_stack(
        tmp_path_factory.mktemp("worker"), AIRFLOW__COGNITIONOS__EXECUTION_MODE="worker"
    ) as stack:
        yield Client(stack)


def test_a_step_runs_on_a_worker_with_airflows_retries(client):
    client.rules({"match": {"provider": "openai"}, "status": 500}, {"times": 2, "status": 529})
    execution = client.run("on-a-worker", STEP, {**STEP, "step_id": "b", "depends_on": ["a"]})
    assert execution["status"] == "completed"
    first, second = execution["steps"]
    assert [(one["provider"], one["outcome"]) for one in first["attempts"]] == [
        *[("openai", "error")] * 2,
        *[("anthropic", "error")] * 2,
        *[("openai", "error")] * 2,
        ("anthropic", "ok"),
    ]
    assert second["output"].startswith("[simulated anthropic")
    tasks = client.tasks(execution["dag_id"], execution["dag_run_id"])
    assert all(task["pid"] for task in tasks.values())
    assert {task["queue"] for task in tasks.values()} == {"agents"}


def test_an_error_that_cannot_get_better_ends_the_task_at_once(client):
    client.rules({"status": 400})
    execution = client.run("on-a-worker-bad", {**STEP, "retry": {"max_attempts": 5}})
    assert execution["status"] == "failed"
    assert len(client.calls()) == 1
