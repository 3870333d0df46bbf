"""Post a workflow, and it runs as an Airflow DAG: over HTTP, against real Airflow processes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

MODELS = {"models": ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]}
REPOSITORY = Path(__file__).parents[2]
PIPELINE = json.loads((REPOSITORY / "stack" / "data-pipeline.json").read_text())
README = (REPOSITORY / "README.md").read_text()


def curl(client, beginning, execution_id=""):
    """Run the README's command that begins like this, word for word, but for the port of this test's stack."""
    (command,) = [
        block
        for block in re.findall(r"```bash\n(curl .*?)```", README, re.DOTALL)
        if block.startswith(beginning)
    ]
    command = command.replace("http://localhost:8100", client.stack.url).replace(
        "{execution_id}", execution_id
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pipeline(client):
    client.facade.post("/api/v3/workflows", json=PIPELINE)
    return client


def test_the_specifications_three_calls(client):
    api = "http://localhost:8100/api/v3/workflows"
    created = curl(client, f"curl -X POST {api} ")
    assert {name: created[name] for name in ("workflow_id", "name", "tags", "dag_id")} == {
        **{name: PIPELINE[name] for name in ("workflow_id", "name", "tags")},
        "dag_id": "data-pipeline.v1.0.0",
    }
    started = curl(client, f"curl -X POST {api}/execute")
    client.ended(started["execution_id"])
    execution = curl(client, f"curl {api}/executions/", started["execution_id"])
    assert execution["status"] == "completed"
    assert execution["inputs"] == {"data_source": "production", "batch_size": 1000}
    extract, transform = execution["steps"]
    assert (extract["step_id"], extract["status"]) == ("extract", "completed")
    assert (transform["step_id"], transform["status"]) == ("transform", "completed")
    assert extract["completed_at"] <= transform["started_at"]
    assert execution["outputs"] == {"transform": transform["output"]}
    assert execution["cost_usd"] > 0
    assert execution["usage"]["total_tokens"] == sum(
        step["usage"]["total_tokens"] for step in execution["steps"]
    )


def test_no_worker_touches_a_step(pipeline):
    execution = pipeline.ended(pipeline.execute("data-pipeline"))
    tasks = pipeline.tasks(execution["dag_id"], execution["dag_run_id"])
    assert [task["state"] for task in tasks.values()] == ["success", "success"]
    assert {(task["pid"], task["hostname"]) for task in tasks.values()} == {(None, "")}


def test_the_trace_id_is_followed_from_the_request_into_the_steps_log(pipeline):
    execution = pipeline.ended(pipeline.execute("data-pipeline", **{"X-Request-ID": "req-abc-123"}))
    assert execution["trace_id"] == "req-abc-123"
    lines = pipeline.task_log(execution["dag_id"], execution["dag_run_id"], "extract")
    (answered,) = [line for line in lines if "answered in" in str(line.get("event"))]
    assert "openai:" in answered["event"]
    assert "tokens, $" in answered["event"]
    assert answered["trace_id"] == "req-abc-123"
    assert answered["execution_id"] == execution["execution_id"]
    facade = pipeline.stack.log("facade").read_text().splitlines()
    assert any(json.loads(line)["trace_id"] == "req-abc-123" for line in facade if line.startswith("{"))


def test_a_run_from_the_command_line_has_its_conf_as_inputs(pipeline, sim):
    sim.rules({"match": {"contains": '"x": 1'}, "answer": "saw x"})
    pipeline.command(
        "dags", "trigger", "data-pipeline.v1.0.0", "--run-id", "manual__cli", "--conf", '{"x": 1}'
    )
    pipeline.until(
        lambda: pipeline.airflow_run("data-pipeline.v1.0.0", "manual__cli"),
        lambda run: run["state"] == "success",
    )
    path = (
        "/api/v2/dags/data-pipeline.v1.0.0/dagRuns/manual__cli/taskInstances/extract/xcomEntries/return_value"
    )
    assert "saw x" in pipeline.airflow.get(path).json()["value"]


def test_a_run_from_the_trigger_form_has_its_values_and_defaults_as_inputs(sim):
    schema = {
        "type": "object",
        "properties": {
            "x": {"type": "integer"},
            "y": {"type": "string", "default": "why"},
            "z": {"type": "string"},
        },
        "required": ["x"],
    }
    step = {"step_id": "a", "llm": {**MODELS, "prompt": "{{ inputs.x }} {{ inputs.y }} {{ inputs.z }}"}}
    made = sim.post("form", step, input_schema=schema)
    sim.until(
        lambda: sim.facade.get("/api/v3/workflows/form/1.0.0").json(),
        lambda found: found["deployment"]["state"] == "runnable",
    )
    sim.rules({"match": {"contains": "7 why null"}, "answer": "as filled in"})
    # What the form of Airflow's UI posts, with the field that was left empty.
    form = {"logical_date": None, "dag_run_id": "manual__form", "conf": {"x": 7, "y": "why", "z": None}}
    assert sim.airflow.post(f"/api/v2/dags/{made['dag_id']}/dagRuns", json=form).status_code == 200
    sim.until(lambda: sim.airflow_run(made["dag_id"], "manual__form"), lambda run: run["state"] == "success")
    entry = f"/api/v2/dags/{made['dag_id']}/dagRuns/manual__form/taskInstances/a/xcomEntries/return_value"
    assert "as filled in" in sim.airflow.get(entry).json()["value"]
    wrong = {**form, "dag_run_id": "manual__wrong", "conf": {"x": "text"}}
    assert sim.airflow.post(f"/api/v2/dags/{made['dag_id']}/dagRuns", json=wrong).status_code == 400


def test_dags_test_does_every_step_of_a_workflow_file_in_its_own_process(client, tmp_path):
    # In a database without a scheduler, which would run the steps of the test's run, too.
    alone = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/alone.db"}
    client.command("db", "migrate", **alone)
    output = client.command("dags", "test", "ticket-triage.v1.0.0", **alone)
    assert "state=success" in output
    assert output.count("answered in") == 3


def test_conditions_skip_and_for_each_fans_out(sim):
    execution = sim.run(
        "language",
        {"step_id": "list", "llm": {**MODELS, "prompt": "list"}},
        {"step_id": "each", "for_each": "inputs.items", "llm": {**MODELS, "prompt": "do {{ item }}"}},
        {"step_id": "never", "condition": "inputs.items | length > 5", "depends_on": ["each"]},
        {"step_id": "after", "depends_on": ["never"]},
        inputs={"items": ["p", "q", "r"]},
    )
    steps = {step["step_id"]: step for step in execution["steps"]}
    assert execution["status"] == "completed"
    assert len(steps["each"]["output"]) == len(steps["each"]["attempts"]) == 3
    assert steps["never"]["status"] == steps["after"]["status"] == "skipped"
    assert steps["after"]["error"] == "Not run: step 'never' was skipped"


def test_a_higher_version_takes_over_the_schedule(sim):
    step = {"step_id": "a"}
    sim.post("nightly", step, schedule="0 3 * * *", timezone="Europe/Berlin")

    def timetable(version):
        found = sim.airflow.get(f"/api/v2/dags/nightly.v{version}").json()
        return found.get("timetable_summary")

    sim.until(lambda: timetable("1.0.0"), lambda found: found == "0 3 * * *")
    sim.post("nightly", step, schedule="0 4 * * *", version="1.1.0")
    sim.until(lambda: timetable("1.1.0"), lambda found: found == "0 4 * * *")
    sim.until(lambda: timetable("1.0.0"), lambda found: found != "0 3 * * *")
