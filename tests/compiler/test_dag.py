"""Specifications -> Airflow's DAG."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from airflow.sdk import conf
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from cognitionos_provider.compiler.dag import dag_from_json, dag_from_workflow
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.exceptions import ConfigurationError

DEFINITION = json.dumps(
    {
        "workflow_id": "w",
        "version": "1.0.0",
        "name": "W",
        "schedule": "30 6 * * 1-5",
        "timezone": "Europe/Berlin",
        "tags": ["z", "a"],
        "input_schema": {
            "type": "object",
            "properties": {
                "x": {"type": "integer", "description": "How many", "minimum": 1},
                "y": {"type": "string", "default": "__classname__"},
            },
            "required": [],
        },
        "steps": [
            {"step_id": "a", "inputs": {"__classname__": "builtins.eval", "__type": "dag", "__var": {}}},
            {"step_id": "b", "depends_on": ["a"]},
            {"step_id": "c", "depends_on": ["a"]},
            {"step_id": "d", "depends_on": ["b", "c"]},
        ],
    }
)


def test_compiling_twice_in_two_processes_gives_the_same_serialized_dag():
    code = (
        "import json,sys\n"
        "from airflow.serialization.serialized_objects import DagSerialization\n"
        "from cognitionos_provider.compiler.dag import dag_from_json\n"
        "dag = dag_from_json(sys.stdin.read(), scheduled=True)\n"
        "print('DAG' + json.dumps(DagSerialization.to_dict(dag), sort_keys=True))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    with ThreadPoolExecutor() as both:
        outputs = [done[0] for done in both.map(lambda process: process.communicate(DEFINITION), processes)]
    # Airflow takes some of its keys from a set, so their order is the process's; it sorts them to compare DAGs, too.
    one, other = (next(line for line in out.splitlines() if line.startswith("DAG")) for out in outputs)
    assert one == other


def test_the_serialized_dag_comes_back_with_the_same_edges_and_specifications():
    dag = DagSerialization.from_dict(
        json.loads(json.dumps(DagSerialization.to_dict(dag_from_json(DEFINITION, scheduled=True))))
    )
    edges = {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}
    assert edges == {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
    task = dag.get_task("a")
    assert task.start_from_trigger
    assert not task.template_fields
    spec = json.loads(task.start_trigger_args.trigger_kwargs["__var"]["spec"])
    assert spec["step"]["inputs"]["__classname__"] == "builtins.eval"


def test_the_schedule_runs_in_the_workflows_time_zone():
    timetable = dag_from_json(DEFINITION, scheduled=True).timetable
    assert timetable.expression == "30 6 * * 1-5"
    assert str(timetable.timezone) == "Europe/Berlin"
    assert dag_from_json(DEFINITION, scheduled=False).schedule is None


def test_the_first_scheduled_run_is_that_of_the_next_slot_after_the_activation():
    now = datetime.now(UTC).replace(microsecond=0)
    yearly = json.dumps({**json.loads(DEFINITION), "schedule": "0 0 1 1 *", "timezone": "UTC"})
    dag = DagSerialization.from_dict(
        DagSerialization.to_dict(dag_from_json(yearly, scheduled=True, start_date=now.isoformat()))
    )
    following = dag.next_dagrun_info(last_automated_run_info=None)
    assert following.run_after == datetime(now.year + 1, 1, 1, tzinfo=UTC)


def test_the_input_schema_becomes_the_params_of_the_trigger_form():
    params = dag_from_json(DEFINITION, scheduled=True).params
    assert params["x"] is None
    assert params["y"] == "__classname__"
    assert params.get_param("x").description == "How many"
    assert params.get_param("x").schema == {"type": ["null", "integer"], "minimum": 1}


def test_no_input_schema_makes_a_param_without_a_value_which_would_kill_the_triggerer():
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {},
            "c": {"enum": [1]},
            "d": True,
            "e": {"type": "null"},
        },
        "required": ["a", "b", "c"],
    }
    definition = json.dumps({**json.loads(DEFINITION), "schedule": None, "input_schema": schema})
    dag = DagSerialization.from_dict(
        json.loads(json.dumps(DagSerialization.to_dict(dag_from_json(definition, scheduled=True))))
    )
    # What the triggerer does before the trigger exists (TriggerRunner.create_triggers), for a run without a conf.
    assert set(process_params(dag, dag.get_task("a"), None, suppress_exception=False)) == set("abcde")
    with pytest.raises(ParamValidationError, match="Invalid input for param a"):
        dag.params.deep_merge({}).validate()
    dag.params.deep_merge({"a": 1, "b": 2, "c": 1}).validate()


def test_worker_mode_is_a_setting_of_the_deployment(monkeypatch):
    monkeypatch.setenv("AIRFLOW__COGNITIONOS__EXECUTION_MODE", "worker")
    monkeypatch.setenv("AIRFLOW__COGNITIONOS__AGENTS_QUEUE", "gpu")
    task = dag_from_json(DEFINITION, scheduled=True).get_task("a")
    assert not task.start_from_trigger
    assert task.queue == "gpu"


def test_an_unknown_execution_mode_is_named(monkeypatch):
    monkeypatch.setenv("AIRFLOW__COGNITIONOS__EXECUTION_MODE", "cloud")
    with pytest.raises(
        ConfigurationError, match=r"\[cognitionos\] execution_mode is 'cloud'.*triggerer, worker"
    ):
        dag_from_workflow(Workflow.from_json(DEFINITION))
    assert conf.get("cognitionos", "execution_mode") == "cloud"


def test_parsing_a_dag_file_imports_no_llm_sdk():
    code = (
        "import sys\n"
        "from cognitionos_provider.compiler.dag import dag_from_json\n"
        "dag_from_json(sys.stdin.read(), scheduled=True)\n"
        "heavy = {'openai', 'anthropic', 'pydantic_ai', 'genai_prices', 'jsonschema_specifications_x'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], input=DEFINITION, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in run.stdout
