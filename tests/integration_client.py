"""A running stack, as a user of it sees it."""

import json
import os
import socket
import subprocess
import sys
import time

import httpx

from stack.local import LocalStack
from stack.settings import load_settings

ENDED = {"completed", "failed", "cancelled"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """What a user of the running stack does: calls the facade, Airflow, and Airflow's command line."""

    def __init__(self, stack):
        self.stack = stack
        self.facade = httpx.Client(base_url=stack.url, timeout=60)
        self.airflow = httpx.Client(base_url=stack.airflow_url, timeout=60)
        token = self.airflow.get("/auth/token").json()["access_token"]
        self.airflow.headers["Authorization"] = f"Bearer {token}"
        self.simulator = httpx.Client(base_url=stack.settings.simulator_url, timeout=60)

    def post(self, workflow_id, *steps, version="1.0.0", **fields):
        body = {"workflow_id": workflow_id, "version": version, "name": workflow_id, "steps": steps, **fields}
        answer = self.facade.post("/api/v3/workflows", json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def execute(self, workflow_id, inputs=None, **headers):
        body = {"workflow_id": workflow_id, "inputs": inputs or {}}
        answer = self.facade.post("/api/v3/workflows/execute", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["execution_id"]

    def status(self, execution_id):
        answer = self.facade.get(f"/api/v3/workflows/executions/{execution_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, execution_id, timeout=120):
        return self.until(lambda: self.status(execution_id), lambda found: found["status"] in ENDED, timeout)

    def run(self, workflow_id, *steps, inputs=None, **fields):
        self.post(workflow_id, *steps, **fields)
        return self.ended(self.execute(workflow_id, inputs))

    @staticmethod
    def until(read, good, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            found = read()
            if good(found):
                return found
            assert time.monotonic() < deadline, (
                f"waited {timeout} s in vain; last seen: {json.dumps(found)[:3000]}"
            )
            time.sleep(0.1)

    def rules(self, *rules):
        self.simulator.delete("/control/rules")
        self.simulator.delete("/control/calls")
        if rules:
            # httpx would send half a surrogate pair as UTF-8, which has no form for it; JSON has.
            self.simulator.post("/control/rules", content=json.dumps(rules)).raise_for_status()

    def calls(self):
        return self.simulator.get("/control/calls").json()["calls"]

    def command(self, *arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env={**self.stack.settings.environment, **environment},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def airflow_run(self, dag_id, run_id):
        return self.airflow.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()

    def tasks(self, dag_id, run_id):
        found = self.airflow.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()
        return {task["task_id"]: task for task in found["task_instances"]}

    def task_log(self, dag_id, run_id, task_id):
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/1"
        return self.airflow.get(path, params={"full_content": True}).json()["content"]


def start_stack(home, **settings):
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "LLM_", "API_"))
        },
        "COGNITIONOS_HOME": str(home),
        "API_PORT": str(free_port()),
        "AIRFLOW_PORT": str(free_port()),
        "SIMULATOR_PORT": str(free_port()),
        **settings,
    }
    return LocalStack(load_settings(environment))
