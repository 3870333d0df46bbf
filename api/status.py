"""Airflow's rows of a run -> the execution that the facade shows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from pydantic import JsonValue, TypeAdapter

from api.airflow_db import Run, TaskRow
from api.schemas import Execution, StepStatus
from cognitionos_provider.definitions import Workflow, sinks
from cognitionos_provider.llm.answer import clean
from cognitionos_provider.llm.journal import read_history
from cognitionos_provider.llm.request import Attempt, Usage
from cognitionos_provider.output import decode_output
from cognitionos_provider.store.tables import ExecutionRow

__all__ = ["show_execution"]

_RUN_STATUS = {"queued": "pending", "running": "running", "success": "completed", "failed": "failed"}

# airflow/utils/state.py, TaskInstanceState. A step is "deferred" while a triggerer runs it, or is waited for.
_STEP_STATUS = {
    "queued": "pending",
    "scheduled": "pending",
    "deferred": "running",
    "awaiting_input": "running",
    "running": "running",
    "restarting": "running",
    "success": "completed",
    "failed": "failed",
    "skipped": "skipped",
    "upstream_failed": "skipped",
    "up_for_retry": "retrying",
    "up_for_reschedule": "retrying",
    "removed": "skipped",
}

_ENDED = frozenset({"completed", "failed", "skipped", "cancelled"})

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def show_execution(row: ExecutionRow, workflow: Workflow, run: Run | None) -> Execution:
    """Put an execution together.

    :param run: what Airflow knows of the run; None where it has not been started yet.
    """
    asked: dict[str, Any] = {
        "execution_id": row.execution_id,
        "workflow_id": row.workflow_id,
        "workflow_version": row.workflow_version,
        "inputs": json.loads(row.inputs),
        "created_at": row.created_at,
        "user_id": row.user_id,
        "trace_id": row.trace_id,
        "dag_id": row.dag_id,
        "dag_run_id": row.dag_run_id,
    }
    if run is None:
        pending = [StepStatus(step_id=step.step_id, status="pending") for step in workflow.steps]
        return Execution(**asked, status="pending", steps=pending)
    steps = [
        _show_step(step.step_id, run.tasks.get(step.step_id), run.outputs, run.journals.get(step.step_id, ()))
        for step in workflow.steps
    ]
    _explain_skips(workflow, steps, run_failed=run.state == "failed")
    by_id = {step.step_id: step for step in steps}
    status = _RUN_STATUS.get(run.state, "running")
    attempts = [attempt for step in steps for attempt in step.attempts]
    return Execution(
        **asked,
        status=status,
        outputs={
            step_id: by_id[step_id].output
            for step_id in sinks(workflow)
            if by_id[step_id].status == "completed"
        },
        error=_run_error(workflow, steps) if status == "failed" else None,
        started_at=run.start_date,
        completed_at=run.end_date,
        cost_usd=_cost(attempts) or 0.0,
        unpriced_calls=sum(map(_is_unpriced, attempts)),
        usage=_usage(attempts) or Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        steps=steps,
    )


def _show_step(
    step_id: str, task: TaskRow | None, outputs: dict[str, Any], stored: Sequence[Any]
) -> StepStatus:
    status = _STEP_STATUS.get(task.state or "", "pending") if task else "pending"
    history = read_history(stored)
    attempts = history.attempts(ended=status in _ENDED)
    answered = [attempt for attempt in attempts if attempt.outcome == "ok" or attempt.error_class == "cached"]
    error = history.error if status in ("failed", "retrying") else None
    if status == "failed" and error is None:
        error = "The task was failed from outside the step; Airflow's task log says more"
    output = None
    if status == "completed":
        output, unreadable = _output(outputs.get(step_id))
        error = error or unreadable
    return StepStatus(
        step_id=step_id,
        status=status,
        started_at=task.start_date if task else None,
        completed_at=task.end_date if task and status not in ("pending", "running", "retrying") else None,
        output=output,
        error=error,
        agent_id=history.agent_id,
        provider=answered[-1].provider if answered else None,
        model=answered[-1].model if answered else None,
        cost_usd=_cost(attempts),
        usage=_usage(attempts),
        attempts=attempts,
    )


def _output(stored: object) -> tuple[JsonValue, str | None]:
    """Return a step's output, and what keeps it from being shown: anybody may write to XCom."""
    try:
        output = clean(decode_output(stored))
        json.dumps(output, allow_nan=False)
        return _JSON.validate_python(output), None
    except (ValueError, RecursionError):
        return None, "The step's output is nothing that can be shown here; see its XCom in Airflow"


def _explain_skips(workflow: Workflow, steps: Sequence[StepStatus], *, run_failed: bool) -> None:
    """Say of each step that was not run why, where it was not its own condition."""
    by_id = {step.step_id: step for step in steps}
    for definition in workflow.steps:
        step = by_id[definition.step_id]
        if step.status != "skipped":
            continue
        for kind in ("failed", "skipped"):
            because = [name for name in definition.depends_on if by_id[name].status == kind]
            if because:
                step.error = f"Not run: step {because[0]!r} {'failed' if kind == 'failed' else 'was skipped'}"
                break
        else:
            if run_failed and definition.condition is None:
                step.error = "Not run: the run was ended before"


def _run_error(workflow: Workflow, steps: Iterable[StepStatus]) -> str:
    for step in steps:
        if step.status == "failed":
            return f"Step {step.step_id!r} failed: {step.error}"
    if workflow.timeout_seconds is not None:
        return f"The run did not end within its {workflow.timeout_seconds:g} s, or was failed by a user"
    return "The run was failed by a user"


def _is_unpriced(attempt: Attempt) -> bool:
    """Whether a call was answered, and so billed, at a price that is not known."""
    return attempt.cost_usd is None and (attempt.outcome == "ok" or attempt.usage is not None)


def _cost(attempts: Iterable[Attempt]) -> float | None:
    """Sum what is known; None where nothing is."""
    known = [attempt.cost_usd for attempt in attempts if attempt.cost_usd is not None]
    return float(sum(known, Decimal(0))) if known else None


def _usage(attempts: Iterable[Attempt]) -> Usage | None:
    known = [attempt.usage for attempt in attempts if attempt.usage is not None]
    if not known:
        return None
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in known),
        completion_tokens=sum(usage.completion_tokens for usage in known),
        total_tokens=sum(usage.total_tokens for usage in known),
    )
