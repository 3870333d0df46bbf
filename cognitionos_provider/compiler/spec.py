"""Definition -> plain specifications of a DAG and its tasks. Pure, and the same to the byte each time."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import JsonValue

from cognitionos_provider.definitions import Step, Workflow, execution_order
from cognitionos_provider.definitions.schema import value_violations
from cognitionos_provider.step import StepSpec

__all__ = ["LLM_STEP_OPERATOR", "DagSpec", "ExecutionMode", "TaskSpec", "compile_workflow"]

LLM_STEP_OPERATOR = "cognitionos_provider.operators.llm.LLMStepOperator"

# A step keeps its deadline itself. Airflow's own timeout sends the task to a worker just to fail it there, so it
# is only for a step that nobody runs any more, and comes later.
TRIGGER_MARGIN = timedelta(minutes=10)
WORKER_MARGIN = timedelta(minutes=1)

# Airflow refuses longer tags.
MAX_TAG_LENGTH = 100

# Fixed, and long gone: a cron schedule starts with the next slot after the DAG appears, since there is no catch-up.
START_DATE = datetime(2024, 1, 1, tzinfo=UTC)

# A param can't reach what a reference refers to elsewhere in the schema. And Airflow would match a pattern in its
# api-server and its scheduler, without a bound in time. The facade and the first step check both.
_UNFIT_FOR_PARAMS = re.compile(r'"(\$ref|\$dynamicRef|pattern|patternProperties)":')

ExecutionMode = Literal["triggerer", "worker"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task: its id, the dotted path of its operator, the operator's arguments, and what it waits for."""

    task_id: str
    operator: str
    arguments: dict[str, Any]
    upstream: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DagSpec:
    """One DAG: its arguments (of ``airflow.sdk.DAG``), its params as JSON Schemas, and its tasks in order."""

    dag_id: str
    arguments: dict[str, Any]
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: tuple[TaskSpec, ...] = ()


def compile_workflow(
    workflow: Workflow,
    *,
    scheduled: bool,
    execution_mode: ExecutionMode = "triggerer",
    agents_queue: str = "agents",
) -> DagSpec:
    """Compile a workflow version.

    :param scheduled: whether this version follows the workflow's ``schedule``; the highest active one does.
    :param execution_mode: where LLM steps run.
    :param agents_queue: the queue of LLM steps that run on a worker.
    """
    order = execution_order(workflow.steps)
    steps = {step.step_id: step for step in workflow.steps}
    return DagSpec(
        dag_id=workflow.dag_id,
        arguments=_dag_arguments(workflow, scheduled),
        params=_params(workflow.input_schema),
        tasks=tuple(_llm_task(workflow, steps[step_id], execution_mode, agents_queue) for step_id in order),
    )


def _dag_arguments(workflow: Workflow, scheduled: bool) -> dict[str, Any]:
    # Each of these has a default that a deployment may change (airflow.cfg, [core] and [scheduler]); a workflow
    # must behave the same everywhere.
    return {
        "description": workflow.description or workflow.name,
        "schedule": workflow.schedule if scheduled else None,
        "timezone": workflow.timezone,
        "start_date": START_DATE,
        "catchup": False,
        "is_paused_upon_creation": False,
        "max_active_runs": workflow.max_active_runs,
        # The limits on LLM calls in flight are the router's; Airflow would apply this one to operator steps.
        "max_active_tasks": 10_000,
        "max_consecutive_failed_dag_runs": 0,
        "dagrun_timeout": timedelta(seconds=workflow.timeout_seconds) if workflow.timeout_seconds else None,
        "tags": sorted(
            {airflow_tag(tag) for tag in ("cognitionos", f"workflow:{workflow.workflow_id}", *workflow.tags)}
        ),
        "render_template_as_native_obj": False,
        "fail_fast": False,
    }


def airflow_tag(tag: str) -> str:
    """Return the tag, cut and given a hash where Airflow would find it too long."""
    if len(tag) <= MAX_TAG_LENGTH:
        return tag
    return f"{tag[: MAX_TAG_LENGTH - 9]}~{hashlib.sha256(tag.encode()).hexdigest()[:8]}"


def _params(input_schema: dict[str, JsonValue] | None) -> dict[str, dict[str, Any]]:
    """Return the properties of the input schema, which make the form of Airflow's Trigger button.

    Every param has a value: Airflow 3.3's triggerer dies of a param without one (``process_params`` raises before
    the trigger exists), and with it every other step that it runs. So a property without a default gets ``null``,
    which is valid for one that may be left out, and is refused by Airflow's own check for one that is required.
    """
    if not input_schema:
        return {}
    properties = input_schema.get("properties")
    required = input_schema.get("required")
    if not isinstance(properties, dict):
        return {}
    params: dict[str, dict[str, Any]] = {}
    for name, schema in sorted(properties.items()):
        param = dict(schema) if isinstance(schema, dict) else {}
        if _UNFIT_FOR_PARAMS.search(json.dumps(param)):
            param = {key: param[key] for key in ("title", "description", "default") if key in param}
        if "default" not in param:
            if not (isinstance(required, list) and name in required):
                param = _or_null(param)
            param["default"] = None
        params[name] = param
    return params


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that takes ``null``, too, in a form from which Airflow's UI still makes the right field."""
    wider = dict(schema)
    if "type" in wider:
        kinds = wider["type"] if isinstance(wider["type"], list) else [wider["type"]]
        wider["type"] = ["null", *(kind for kind in kinds if kind != "null")]
    if "enum" in wider and None not in wider["enum"]:
        wider["enum"] = [*wider["enum"], None]
    if not value_violations({"type": "object", "properties": {"value": wider}}, {"value": None}):
        return wider
    return {"anyOf": [{"type": "null"}, schema]}


def _llm_task(workflow: Workflow, step: Step, mode: ExecutionMode, agents_queue: str) -> TaskSpec:
    spec = StepSpec.of(workflow, step)
    deadline = timedelta(seconds=step.timeout_seconds)
    arguments: dict[str, Any] = {
        "spec": spec.canonical_json(),
        "start_from_trigger": mode == "triggerer",
        "task_display_name": step.name or step.step_id,
        "depends_on_past": False,
        "wait_for_downstream": False,
        "trigger_rule": "all_success",
        "retries": 0,
        "execution_timeout": deadline + TRIGGER_MARGIN,
        "pool": "default_pool",
        "priority_weight": 1,
    }
    if mode == "worker":
        # No trigger to retry inside of: a try makes one pass over the models, and Airflow makes the tries.
        arguments |= {
            "queue": agents_queue,
            "retries": step.retry.max_attempts - 1,
            "retry_delay": timedelta(seconds=step.retry.backoff_seconds),
            "retry_exponential_backoff": step.retry.backoff_multiplier,
            "max_retry_delay": timedelta(seconds=step.retry.max_backoff_seconds),
            "execution_timeout": deadline + WORKER_MARGIN,
        }
    return TaskSpec(step.step_id, LLM_STEP_OPERATOR, arguments, tuple(step.depends_on))
