"""The triggerer's loop runs everybody's triggers: ours never hold it."""

import json
import subprocess
import sys

import pytest

from cognitionos_provider.simulator import SimulatorServer

# As in a triggerer: a process with no other threads, in which the SDKs have been loaded before. What loading them does
# to the loop is measured by tests/llm/test_package.py.
PROGRAM = """
import asyncio, json, logging, sys, types
from airflow.sdk.execution_time import task_runner
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.step import StepSpec
from cognitionos_provider.triggers.llm import LLMStepTrigger
from tests.edges.conftest import Channel

class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())

def trigger_of(step, conf):
    body = {"workflow_id": "w", "version": "1.0.0", "name": "W", "steps": [{"step_id": "s", **step}]}
    workflow = Workflow.model_validate(body)
    trigger = LLMStepTrigger(StepSpec.of(workflow, workflow.steps[0]).canonical_json())
    context = {"dag_run": types.SimpleNamespace(conf=conf), "params": conf}
    trigger.task_instance = types.SimpleNamespace(
        dag_id="w.v1.0.0", run_id="r", task_id="s", try_number=1, get_template_context=lambda: context
    )
    return trigger

async def main():
    task_runner.SUPERVISOR_COMMS = Channel()
    await (await LLMHook().aget_router()).warm_up()
    fields = [f"field_{n}" for n in range(50)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}, "required": fields}
    step = {
        "for_each": "inputs.items",
        "inputs": {"text": "{{ inputs.text }}"},
        "output_schema": schema,
        "max_concurrency": 100,
        "llm": {"models": ["openai:gpt-4"]},
    }
    conf = {"items": [f"item {n}" for n in range(600)], "text": "words " * 2_000}
    loop = asyncio.get_running_loop()
    records = Records()
    logging.getLogger("asyncio").addHandler(records)
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05
    (event,) = [event async for event in trigger_of(step, conf).run()]
    loop.set_debug(False)
    output = json.loads(event.xcoms["return_value"].removeprefix("json:"))
    print("RESULT", json.dumps({"items": len(output), "slow": records.messages}))

asyncio.run(main())
"""


@pytest.fixture
def far_sim(monkeypatch):
    with SimulatorServer() as server:
        monkeypatch.setenv("LLM_OPENAI_API_KEY", "simulated")
        monkeypatch.setenv("LLM_OPENAI_BASE_URL", server.openai_base_url)
        yield server


def test_no_part_of_a_fan_out_holds_the_loop_for_50_ms(far_sim):
    found = []
    # A machine that is busy elsewhere stops everything now and then; what our code does it does each time.
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        result = json.loads(line.removeprefix("RESULT "))
        assert result["items"] == 600
        found.append(result["slow"])
        if not found[-1]:
            break
    assert found[-1] == []
