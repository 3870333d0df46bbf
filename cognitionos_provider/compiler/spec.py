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
from cognitionos_provider.exceptions import DefinitionError
from cognitionos_provider.step_spec import StepSpec

__all__ = ["LLM_STEP_OPERATOR", "DagSpec", "ExecutionMode", "TaskSpec", "compile_workflow"]

LLM_STEP_OPERATOR = "cognitionos_provider.operators.llm.LLMStepOperator"

# A step keeps its deadline itself. Airflow's own timeout sends the task to a worker just to fail it there, so it
# is only for a step that nobody runs any more, and comes later.
TRIGGER_MARGIN = timedelta(minutes=10)
WORKER_MARGIN = timedelta(minutes=1)

# Bytes that copies of the input schema may take in a DAG.
MAX_SCHEMA_COPIES = 64 << 10

# Airflow refuses longer tags.
MAX_TAG_LENGTH = 100

# Of a workflow whose activation is not known, since it is kept in a file. As with any other DAG file, Airflow then
# runs the last slot of the schedule that has passed as soon as it sees the DAG.
START_DATE = datetime(2024, 1, 1, tzinfo=UTC)

# Where Airflow's UI makes the form from, and Airflow checks a run's conf by: everything of JSON Schema but what a
# param can't reach (references into the rest of the schema), and what Airflow would check in its api-server and
# scheduler without a bound in time (patterns, uniqueness). The facade and the first step check all of it. An
# annotation with the name of an argument of Airflow's own (``source``) would make a DAG that can't be read back.
# fmt: off
_PARAM_KEYWORDS = frozenset({
    "additionalProperties", "allOf", "anyOf", "const", "default", "description", "description_md", "enum", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum",
    "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "prefixItems", "properties",
    "required", "title", "type", "values_display",
})
# fmt: on
_UNFIT_FOR_PARAMS = re.compile(r'"(\$ref|\$dynamicRef|pattern|patternProperties|uniqueItems)":')

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
    start_date: datetime | None = None,
    execution_mode: ExecutionMode = "triggerer",
    agents_queue: str = "agents",
) -> DagSpec:
    """Compile a workflow version.

    :param scheduled: whether this version follows the workflow's ``schedule``; the highest active one does.
    :param start_date: when the version was activated; its schedule does not reach back behind that.
    :param execution_mode: where LLM steps run.
    :param agents_queue: the queue of LLM steps that run on a worker.
    """
    operators = [index for index, step in enumerate(workflow.steps) if step.operator is not None]
    if operators:
        raise DefinitionError(
            [
                (("steps", index, "operator"), "No Airflow operator is allowed as a step yet")
                for index in operators
            ]
        )
    order = execution_order(workflow.steps)
    steps = {step.step_id: step for step in workflow.steps}
    checking = _checking_steps(workflow, order)
    return DagSpec(
        dag_id=workflow.dag_id,
        arguments=_dag_arguments(workflow, scheduled, start_date or START_DATE),
        params=_params(workflow.input_schema),
        tasks=tuple(
            _llm_task(workflow, steps[step_id], step_id in checking, execution_mode, agents_queue)
            for step_id in order
        ),
    )


def _dag_arguments(workflow: Workflow, scheduled: bool, start_date: datetime) -> dict[str, Any]:
    # Each of these has a default that a deployment may change (airflow.cfg, [core] and [scheduler]); a workflow
    # must behave the same everywhere.
    return {
        "description": workflow.description or workflow.name,
        "schedule": workflow.schedule if scheduled else None,
        "timezone": workflow.timezone,
        "start_date": start_date,
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
    which is valid for one that may be left out. For one that is required Airflow's own check refuses it where the
    property says what it must be, and the first step does where it does not.
    """
    if not input_schema:
        return {}
    properties = input_schema.get("properties")
    required = input_schema.get("required")
    if not isinstance(properties, dict):
        return {}
    params: dict[str, dict[str, Any]] = {}
    for name, schema in sorted(properties.items()):
        param = _fit_for_airflow(schema) if isinstance(schema, dict) else {}
        if "default" not in param:
            if not (isinstance(required, list) and name in required):
                param = _or_null(param)
            param["default"] = None
        params[name] = param
    return params


def _fit_for_airflow(schema: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key in _PARAM_KEYWORDS}
    if _UNFIT_FOR_PARAMS.search(json.dumps(plain)):
        return {key: plain[key] for key in ("title", "description", "default") if key in plain}
    return plain


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


def _checking_steps(workflow: Workflow, order: list[str]) -> frozenset[str]:
    """Return the steps that check the run's inputs: those that wait for no other, so that none of them costs money.

    Each carries the schema, and the whole DAG is sent for each trigger. A schema too large for that is checked by
    the first of them alone; the run fails all the same.
    """
    if workflow.input_schema is None:
        return frozenset()
    depends = {step.step_id: step.depends_on for step in workflow.steps}
    roots = [step_id for step_id in order if not depends[step_id]]
    fits = len(roots) * len(json.dumps(workflow.input_schema)) <= MAX_SCHEMA_COPIES
    return frozenset(roots if fits else roots[:1])


def _llm_task(
    workflow: Workflow, step: Step, checks_inputs: bool, mode: ExecutionMode, agents_queue: str
) -> TaskSpec:
    spec = StepSpec.of(workflow, step, checks_inputs=checks_inputs)
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
