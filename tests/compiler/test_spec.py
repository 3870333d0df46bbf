"""Definition -> plain specifications."""

import json
from datetime import timedelta

import pytest

from cognitionos_provider.compiler import compile_workflow
from cognitionos_provider.compiler.spec import airflow_tag
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.exceptions import DefinitionError


def workflow(**fields):
    body = {
        "workflow_id": "data-pipeline",
        "version": "1.2.3",
        "name": "Data pipeline",
        "steps": [{"step_id": "extract"}, {"step_id": "transform", "depends_on": ["extract"]}],
    }
    return Workflow.model_validate({**body, **fields})


def test_a_step_becomes_one_task_and_there_is_nothing_else():
    spec = compile_workflow(workflow(), scheduled=True)
    assert spec.dag_id == "data-pipeline.v1.2.3"
    assert [(task.task_id, task.upstream) for task in spec.tasks] == [
        ("extract", ()),
        ("transform", ("extract",)),
    ]


def test_tasks_come_in_an_order_in_which_each_follows_what_it_depends_on():
    spec = compile_workflow(
        workflow(steps=[{"step_id": "b", "depends_on": ["a"]}, {"step_id": "a"}]), scheduled=True
    )
    assert [task.task_id for task in spec.tasks] == ["a", "b"]


def test_a_step_that_starts_from_the_trigger_has_no_airflow_retries_and_a_late_airflow_timeout():
    (task,) = compile_workflow(
        workflow(steps=[{"step_id": "a", "timeout_seconds": 30, "retry": {"max_attempts": 5}}]),
        scheduled=True,
    ).tasks
    assert task.arguments["start_from_trigger"] is True
    assert task.arguments["retries"] == 0
    assert task.arguments["execution_timeout"] == timedelta(seconds=630)
    assert "queue" not in task.arguments


def test_in_worker_mode_the_retry_block_becomes_airflows_own_retries_on_the_agents_queue():
    retry = {"max_attempts": 5, "backoff_seconds": 2, "backoff_multiplier": 3, "max_backoff_seconds": 40}
    (task,) = compile_workflow(
        workflow(steps=[{"step_id": "a", "retry": retry}]),
        scheduled=True,
        execution_mode="worker",
        agents_queue="gpu",
    ).tasks
    assert task.arguments["start_from_trigger"] is False
    assert task.arguments["queue"] == "gpu"
    assert task.arguments["retries"] == 4
    assert task.arguments["retry_delay"] == timedelta(seconds=2)
    assert task.arguments["retry_exponential_backoff"] == 3
    assert task.arguments["max_retry_delay"] == timedelta(seconds=40)


def test_the_specification_travels_as_one_text_and_names_the_steps_whose_outputs_are_read():
    steps = [
        {"step_id": "a"},
        {"step_id": "b", "depends_on": ["a"]},
        {
            "step_id": "c",
            "depends_on": ["b"],
            "llm": {"prompt": "{{ steps.a.output }}"},
            "condition": "steps.b.output",
        },
        {"step_id": "d", "depends_on": ["c"], "llm": {"prompt": "no output at all"}},
    ]
    specs = [
        json.loads(task.arguments["spec"])
        for task in compile_workflow(workflow(steps=steps), scheduled=True).tasks
    ]
    assert [spec.get("needs") for spec in specs] == [None, ["a"], ["a", "b"], None]


def test_only_steps_that_wait_for_nothing_carry_the_input_schema():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    first, second = compile_workflow(workflow(input_schema=schema), scheduled=True).tasks
    assert json.loads(first.arguments["spec"])["input_schema"] == schema
    assert "input_schema" not in json.loads(second.arguments["spec"])


def test_only_the_scheduled_version_follows_the_schedule():
    scheduled = workflow(schedule="0 6 * * *", timezone="Europe/Berlin")
    assert compile_workflow(scheduled, scheduled=True).arguments["schedule"] == "0 6 * * *"
    assert compile_workflow(scheduled, scheduled=False).arguments["schedule"] is None


def test_no_airflow_default_decides_how_a_workflow_runs():
    arguments = compile_workflow(workflow(max_active_runs=7, timeout_seconds=60), scheduled=True).arguments
    assert arguments["is_paused_upon_creation"] is False
    assert arguments["catchup"] is False
    assert arguments["max_active_runs"] == 7
    assert arguments["dagrun_timeout"] == timedelta(seconds=60)
    assert arguments["start_date"] is not None


def test_tags_name_the_workflow_and_long_ones_are_cut_and_told_apart():
    tags = compile_workflow(workflow(tags=["etl", "data"]), scheduled=True).arguments["tags"]
    assert tags == ["cognitionos", "data", "etl", "workflow:data-pipeline"]
    one, other = airflow_tag("workflow:" + "x" * 150 + "1"), airflow_tag("workflow:" + "x" * 150 + "2")
    assert len(one) == len(other) == 100
    assert one != other


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "integer"}, {"type": ["null", "integer"], "default": None}),
        ({"type": ["string", "null"]}, {"type": ["null", "string"], "default": None}),
        ({"type": "null"}, {"type": ["null"], "default": None}),
        (
            {"type": "string", "enum": ["a"]},
            {"type": ["null", "string"], "enum": ["a", None], "default": None},
        ),
        ({"const": 1}, {"anyOf": [{"type": "null"}, {"const": 1}], "default": None}),
        ({"type": "integer", "default": 3}, {"type": "integer", "default": 3}),
        (True, {"default": None}),
        ({"type": "string", "pattern": "^(a+)+$", "default": "a"}, {"type": "string", "default": "a"}),
        ({"type": "array", "items": {"pattern": "a"}, "default": []}, {"default": []}),
        ({"type": "integer", "source": "x", "self": 1, "default": 1}, {"type": "integer", "default": 1}),
        ({"$ref": "#/$defs/x", "title": "X"}, {"title": "X", "default": None}),
    ],
)
def test_an_optional_input_becomes_a_param_that_may_be_left_empty(schema, param):
    spec = compile_workflow(
        workflow(input_schema={"type": "object", "properties": {"x": schema}, "$defs": {"x": {}}}),
        scheduled=True,
    )
    assert spec.params == {"x": param}


def test_a_required_input_becomes_a_param_whose_value_airflow_refuses_until_one_is_given():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    spec = compile_workflow(workflow(input_schema=schema), scheduled=True)
    assert spec.params == {"x": {"type": "integer", "default": None}}


def test_an_input_schema_without_properties_makes_no_form():
    assert compile_workflow(workflow(input_schema={"type": "object"}), scheduled=True).params == {}


def test_an_operator_step_is_refused_by_the_compiler_too():
    operator = {"step_id": "a", "operator": "airflow.providers.standard.operators.bash.BashOperator"}
    with pytest.raises(DefinitionError, match=r"steps\.0\.operator"):
        compile_workflow(workflow(steps=[operator]), scheduled=True)


def test_a_large_input_schema_is_carried_by_the_first_step_alone():
    schema = {"type": "object", "description": "x" * 1000}
    steps = [{"step_id": f"s{number}"} for number in range(100)]
    tasks = compile_workflow(workflow(steps=steps, input_schema=schema), scheduled=True).tasks
    assert ["input_schema" in json.loads(task.arguments["spec"]) for task in tasks] == [True] + [False] * 99
