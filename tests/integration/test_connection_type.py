"""Connections of our type in a real Airflow: its form, its test of them, and what steps make of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

KEY = "sk-canary-8d20f1"
# None that other tests ask: its price tells whose connection was used.
MODEL = "priced-by-the-connection"


@pytest.fixture(scope="module")
def connect(client):
    """Store connections; they are deleted at the end."""
    stored = []

    def store(conn_id, **fields):
        extra = fields.pop("extra", None)
        body = {"connection_id": conn_id, "conn_type": "cognitionos_llm", "password": KEY, **fields}
        if extra is not None:
            body["extra"] = json.dumps(extra)
        answer = client.airflow.post("/api/v2/connections", json=body)
        assert answer.status_code == 201, answer.text
        stored.append(conn_id)

    yield store
    for conn_id in stored:
        client.airflow.delete(f"/api/v2/connections/{conn_id}")


def outcome_of(client, conn_id):
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "test", conn_id],
        env={**client.stack.settings.environment, "AIRFLOW__CORE__TEST_CONNECTION": "Enabled"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert KEY not in done.stdout + done.stderr
    return done.returncode, " ".join(done.stdout.split())


def test_the_form_of_airflow_has_our_fields(client):
    answer = client.airflow.get("/ui/connections/hook_meta")
    assert answer.status_code == 200, answer.text
    (form,) = [each for each in answer.json() if each["connection_type"] == "cognitionos_llm"]
    assert form["hook_name"] == "CognitionOS LLM"
    standard = form["standard_fields"]
    assert (standard["host"]["title"], standard["password"]["title"]) == ("Base URL", "API key")
    assert all(standard[name]["hidden"] for name in ("url_schema", "login", "port"))
    assert form["extra_fields"]["provider"]["value"] == "openai"
    assert {name: field["schema"]["type"][0] for name, field in form["extra_fields"].items()} == {
        "provider": "string",
        "default_model": "string",
        "fallback_conn_ids": "string",
        "max_in_flight": "integer",
        "requests_per_minute": "integer",
        "tokens_per_minute": "integer",
        "prices": "object",
    }


def test_airflow_shows_no_key_of_a_connection(client, connect):
    connect("shown", extra={"openai_api_key": KEY})
    shown = client.airflow.get("/api/v2/connections/shown")
    assert shown.status_code == 200
    assert KEY not in shown.text
    assert shown.json()["password"] == "***"


def test_airflows_command_tests_a_connection_and_says_what_is_wrong(sim, connect):
    url = f"{sim.stack.settings.simulator_url}/v1"
    connect("tested", host=url, extra={"fallback_conn_ids": "gone"})
    assert outcome_of(sim, "tested") == (0, "Retrieving connection: 'tested' Testing... Connection success!")
    sim.rules({"match": {}, "status": 401, "message": f"wrong key {KEY}"})
    code, said = outcome_of(sim, "tested")
    assert code == 1
    assert "Connection failed! openai: HTTP 401: the API key is not accepted" in said
    connect("malformed", host=url, extra={"max_in_flight": "many"})
    code, said = outcome_of(sim, "malformed")
    assert code == 1
    assert "Connection 'malformed': its max_in_flight must be a whole number" in said


def test_steps_use_the_stored_connection_and_no_log_has_its_key(sim, connect):
    connect(
        "cognitionos_llm_default",
        host=f"{sim.stack.settings.simulator_url}/v1",
        extra={"prices": {MODEL: {"input": 1_000_000, "output": 0}}, "fallback_conn_ids": ["second"]},
    )
    connect(
        "second", extra={"provider": "anthropic", "max_in_flight": 5}, host=sim.stack.settings.simulator_url
    )
    step = {"step_id": "a", "llm": {"models": [f"openai:{MODEL}"]}, "retry": {"max_attempts": 1}}
    sim.post("of-a-connection", step)
    # The triggerer may believe for 30 s that there is no such connection.
    found = sim.until(
        lambda: sim.ended(sim.execute("of-a-connection")), lambda run: run["cost_usd"] is not None, timeout=90
    )
    assert found["status"] == "completed"
    assert float(found["cost_usd"]) == found["usage"]["prompt_tokens"]

    sim.rules({"status": 401, "message": f"Incorrect API key provided: {KEY}"})
    refused = sim.run("of-a-refused-connection", step)
    assert refused["status"] == "failed"
    assert "HTTP 401" in refused["error"]
    log = sim.task_log(refused["dag_id"], refused["dag_run_id"], "a")
    assert "HTTP 401" in json.dumps(log)
    assert KEY not in json.dumps(refused) + json.dumps(log)
    home = Path(sim.stack.settings.home)
    logs = [path for path in home.rglob("*") if path.is_file() and ".log" in path.name]
    assert logs
    assert [path for path in logs if KEY.encode() in path.read_bytes()] == []
