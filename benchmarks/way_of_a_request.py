"""How long the way of one request takes: ``python -m benchmarks.way_of_a_request [--database URL]``.

Starts a local stack with the simulator, measures, prints a table, stops.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import httpx

from stack.local import LocalStack
from stack.settings import load_settings

PUBLISHED = 20
MODELS = {"models": ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]}


class Bench:
    """A running stack, and what is measured on it."""

    def __init__(self, stack: LocalStack) -> None:
        self.facade = httpx.Client(base_url=f"{stack.url}/api/v3", timeout=120)
        self.simulator = httpx.Client(base_url=stack.settings.simulator_url, timeout=60)

    def post(self, workflow_id: str, steps: list[dict[str, Any]]) -> None:
        """Post a workflow."""
        body = {"workflow_id": workflow_id, "version": "1.0.0", "name": workflow_id, "steps": steps}
        self.facade.post("/workflows", json=body).raise_for_status()

    def until_runnable(self, workflow_id: str) -> None:
        """Wait until the workflow's DAG can be started."""
        while self.facade.get(f"/workflows/{workflow_id}/1.0.0").json()["deployment"]["state"] != "runnable":
            time.sleep(0.02)

    def run(self, workflow_id: str) -> tuple[float, dict[str, Any]]:
        """Execute and wait; seconds from the request to the run's end as Airflow wrote it down."""
        answer = self.facade.post("/workflows/execute", json={"workflow_id": workflow_id})
        answer.raise_for_status()
        execution = answer.json()
        while execution["status"] in ("pending", "running"):
            time.sleep(0.1)
            execution = self.facade.get(f"/workflows/executions/{execution['execution_id']}").json()
        if execution["status"] != "completed":
            raise SystemExit(f"{workflow_id} {execution['status']}: {execution['error']}")
        return _seconds(execution["created_at"], execution["completed_at"]), execution

    def publish(self) -> list[float]:
        """Seconds from the post of a new workflow until its DAG can be started."""
        taken = []
        for number in range(PUBLISHED):
            # Out of step with the DAG processor's loop of one second.
            time.sleep(0.37)
            begun = time.perf_counter()
            self.post(f"publish-{number}", [{"step_id": "a"}])
            self.until_runnable(f"publish-{number}")
            taken.append(time.perf_counter() - begun)
        return taken

    def measure(self, workflow_id: str, steps: list[dict[str, Any]]) -> float:
        """Seconds of one run of a workflow that has been deployed before."""
        self.post(workflow_id, steps)
        self.until_runnable(workflow_id)
        return self.run(workflow_id)[0]


def _seconds(begin: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="SQLAlchemy URL of an empty PostgreSQL database; default: SQLite")
    arguments = parser.parse_args()
    environment: dict[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LLM_")},
        "COGNITIONOS_HOME": tempfile.mkdtemp(prefix="cognitionos-bench-"),
    }
    if arguments.database:
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = arguments.database
    with LocalStack(load_settings(environment)) as stack:
        bench = Bench(stack)
        bench.measure("warm-up", [{"step_id": "a", "llm": MODELS}])
        _report(bench, "PostgreSQL" if arguments.database else "SQLite", environment)


def _report(bench: Bench, database: str, environment: Mapping[str, str]) -> None:
    published = bench.publish()
    bench.simulator.post("/control/rules", json=[{"latency": 0.5}]).raise_for_status()
    fan_out = bench.measure("fan-out", [{"step_id": f"s{n}", "llm": MODELS} for n in range(100)])
    steps = [{"step_id": f"s{n}", "llm": MODELS, "depends_on": [f"s{n - 1}"] if n else []} for n in range(3)]
    chain = bench.measure("chain", steps)
    in_flight = bench.simulator.get("/control/stats").json()["max_in_flight"]
    quartiles = statistics.quantiles(published, n=4)
    rows = [
        (f"publish -> runnable, median of {PUBLISHED}", f"{statistics.median(published):.2f} s"),
        ("  quartiles, slowest", f"{quartiles[0]:.2f}, {quartiles[2]:.2f}, {max(published):.2f} s"),
        ("100 parallel steps of 0.5 s", f"{fan_out:.1f} s ({in_flight} calls in flight at most)"),
        ("chain of 3 steps of 0.5 s", f"{chain:.1f} s"),
    ]
    print(f"{database}, {os.cpu_count()} cores")  # noqa: T201
    for name, value in rows:
        print(f"  {name:<36} {value}")  # noqa: T201


if __name__ == "__main__":
    main()
