"""Plain specifications -> Airflow DAG. The one file of the compiler that knows Airflow."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, conf

from cognitionos_provider.compiler.spec import DagSpec, ExecutionMode, compile_workflow
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.exceptions import ConfigurationError

__all__ = ["build_dag", "dag_from_json", "dag_from_workflow"]

EXECUTION_MODES: tuple[ExecutionMode, ...] = ("triggerer", "worker")


def dag_from_json(definition: str, *, scheduled: bool, start_date: str | None = None) -> DAG:
    """Return the DAG of a stored definition; what a generated DAG file calls.

    :param definition: the workflow as JSON text.
    :param scheduled: whether this version follows the workflow's schedule.
    :param start_date: when it was activated (ISO 8601): the schedule starts with the next slot after that.
    """
    since = None if start_date is None else datetime.fromisoformat(start_date)
    return dag_from_workflow(Workflow.from_json(definition), scheduled=scheduled, start_date=since)


def dag_from_workflow(
    workflow: Workflow, *, scheduled: bool = True, start_date: datetime | None = None
) -> DAG:
    """Compile a workflow with this deployment's settings (``[cognitionos]`` in Airflow's configuration).

    :raises ConfigurationError: ``execution_mode`` is none that we know.
    """
    asked = conf.get("cognitionos", "execution_mode", fallback="triggerer")
    mode = next((known for known in EXECUTION_MODES if known == asked), None)
    if mode is None:
        raise ConfigurationError(
            f"[cognitionos] execution_mode is {asked!r}; it must be one of {', '.join(EXECUTION_MODES)}"
        )
    queue = conf.get("cognitionos", "agents_queue", fallback="agents")
    return build_dag(
        compile_workflow(
            workflow, scheduled=scheduled, start_date=start_date, execution_mode=mode, agents_queue=queue
        )
    )


def build_dag(spec: DagSpec) -> DAG:
    """Instantiate a DAG and its tasks."""
    arguments = dict(spec.arguments)
    timezone = arguments.pop("timezone")
    if arguments["schedule"] is not None:
        # A bare cron string would get the timetable that the deployment's configuration prefers.
        arguments["schedule"] = CronTriggerTimetable(arguments["schedule"], timezone=timezone)
    params = {name: _param(schema) for name, schema in spec.params.items()}
    dag = DAG(dag_id=spec.dag_id, params=params, **arguments)
    operators = {}
    for task in spec.tasks:
        operator = _load(task.operator)(task_id=task.task_id, dag=dag, **task.arguments)
        operators[task.task_id] = operator
        if task.upstream:
            operator.set_upstream([operators[task_id] for task_id in task.upstream])
    return dag


def _param(schema: dict[str, Any]) -> Param:
    schema = dict(schema)
    description = schema.pop("description", None)
    return Param(schema.pop("default"), description=description, schema=schema)


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
