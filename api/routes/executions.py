"""Executions: start a run, and see how it goes."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Body, Response
from pydantic import SkipValidation
from sqlalchemy.orm import Session

from api.airflow_client import UnknownOutcome
from api.airflow_db import dag_states, has_run, read_run, request_parsing
from api.bodies import read_body, refuse_large_inputs, think
from api.deps import AirflowDep, Caller, CallerDep, ConfigDep, in_session
from api.examples import EXECUTE_DATA_PIPELINE
from api.problems import Problem
from api.schemas import ExecuteRequest, Execution
from api.status import show_execution
from cognitionos_provider.definitions import Workflow, check_inputs
from cognitionos_provider.exceptions import DefinitionError
from cognitionos_provider.observability import get_logger, get_trace_id, new_trace_id
from cognitionos_provider.run import RESERVED_KEY, make_conf
from cognitionos_provider.store.executions import (
    NewExecution,
    add_execution,
    find_execution,
    remove_execution,
)
from cognitionos_provider.store.tables import ExecutionRow
from cognitionos_provider.store.workflows import get_workflow

__all__ = ["router"]

router = APIRouter(prefix="/api/v3/workflows", tags=["executions"])
logger = get_logger(__name__)

POLL_SECONDS = 0.1

# A number that the table's NUMERIC(18, 9) can hold.
MAX_BUDGET_USD = Decimal(999_999_999)


@router.post("/execute", status_code=202, summary="Start a run")
async def execute_workflow(
    body: Annotated[
        ExecuteRequest, SkipValidation, Body(openapi_examples={"data-pipeline": EXECUTE_DATA_PIPELINE})
    ],
    response: Response,
    caller: CallerDep,
    airflow: AirflowDep,
    config: ConfigDep,
) -> Execution:
    """Start a run of a workflow.

    A workflow that was posted a moment ago is waited for. The execution is written down before Airflow is
    asked for its run, under a run id of ours, so that nothing that dies in between loses it.
    """
    asked = await read_body(ExecuteRequest, body)
    version, definition = await in_session(lambda session: _startable(session, asked, caller))
    workflow = await think(lambda: _check(definition, asked))
    await _until_runnable(workflow.dag_id, config.api.execute_wait_seconds)
    execution_id = uuid.uuid4()
    trace_id = get_trace_id() or new_trace_id()
    budget = _budget(asked, workflow)
    new = NewExecution(
        execution_id=execution_id,
        workflow_id=workflow.workflow_id,
        workflow_version=version,
        dag_id=workflow.dag_id,
        dag_run_id=f"cognitionos__{execution_id}",
        inputs=asked.inputs,
        budget_usd=budget,
        user_id=caller.user_id,
        trace_id=trace_id,
        created_at=datetime.now(UTC),
    )
    row = await in_session(lambda session: add_execution(session, new))
    conf = make_conf(
        asked.inputs,
        execution_id=row.execution_id,
        trace_id=trace_id,
        budget_usd=None if budget is None else str(budget),
    )
    try:
        await airflow.start_run(row.dag_id, row.dag_run_id, conf, token=caller.token)
    except Problem as problem:
        keep = isinstance(problem, UnknownOutcome)
        if not await in_session(lambda session: _has_started(session, row, keep=keep)):
            if keep:
                problem.detail += (
                    f": look at /api/v3/workflows/executions/{row.execution_id} before you start another"
                )
            raise
    logger.info(
        "Execution started",
        extra={"execution_id": row.execution_id, "dag_id": row.dag_id, "dag_run_id": row.dag_run_id},
    )
    response.headers["Location"] = f"/api/v3/workflows/executions/{row.execution_id}"
    return show_execution(row, workflow, None)


def _startable(session: Session, asked: ExecuteRequest, caller: Caller) -> tuple[str, str]:
    """Return version and definition of the workflow that is to be started."""
    row = get_workflow(session, asked.workflow_id, asked.workflow_version)
    caller.require("POST", row.dag_id)
    if row.status != "active":
        raise Problem(
            409,
            f"Workflow {row.workflow_id} {row.version} is {row.status}; only an active one can be started",
        )
    return row.version, row.definition


def _check(definition: str, asked: ExecuteRequest) -> Workflow:
    refuse_large_inputs(asked.inputs)
    if RESERVED_KEY in asked.inputs:
        raise DefinitionError([(("inputs", RESERVED_KEY), f"{RESERVED_KEY!r} is a reserved name")])
    workflow = Workflow.from_json(definition)
    check_inputs(workflow, asked.inputs)
    return workflow


def _budget(asked: ExecuteRequest, workflow: Workflow) -> Decimal | None:
    """Return the lower of the run's own budget and the workflow's; None where there is none."""
    budgets = [
        Decimal(str(budget)) for budget in (asked.budget_usd, workflow.budget_usd) if budget is not None
    ]
    return min(*budgets, MAX_BUDGET_USD) if budgets else None


async def _until_runnable(dag_id: str, seconds: float) -> None:
    """Wait until Airflow knows the DAG.

    :raises Problem: 409 where it can't be built or is paused, 503 where the wait is over.
    """
    until = time.monotonic() + seconds
    asked = False
    while True:
        state = (await in_session(lambda session: dag_states(session, [dag_id])))[dag_id]
        if state.import_error is not None:
            raise Problem(409, f"The DAG of this workflow can't be built: {state.import_error}")
        if state.is_paused:
            raise Problem(409, f"The DAG {dag_id} is paused; unpause it in Airflow to start runs")
        if state.known:
            return
        if not asked:
            # The request that came with the workflow may have been served by a DAG processor that then died.
            await in_session(lambda session: request_parsing(session, [dag_id]))
            asked = True
        if time.monotonic() > until:
            raise Problem(
                503,
                f"Airflow's DAG processor has not built {dag_id} within {seconds:g} s; is it running, with "
                "the bundle 'cognitionos' in its dag_bundle_config_list? No run was started",
                retry_after=5,
            )
        await asyncio.sleep(POLL_SECONDS)


def _has_started(session: Session, row: ExecutionRow, *, keep: bool) -> bool:
    """Whether Airflow has made the run all the same. If not, the execution is forgotten.

    :param keep: unless the run may still be made: it then finds its execution.
    """
    started = has_run(session, row.dag_id, row.dag_run_id)
    if not started and not keep:
        remove_execution(session, row.execution_id)
    return started


@router.get("/executions/{execution_id}", summary="Get an execution")
async def get_execution(execution_id: str, caller: CallerDep) -> Execution:
    """Return how a run goes: its status, its steps with every call to a provider, its outputs, its cost."""

    def read(session: Session) -> Execution:
        row = find_execution(session, _uuid_text(execution_id))
        if row is None:
            raise Problem(404, f"There is no execution {execution_id[:100]!r}")
        caller.require("GET", row.dag_id)
        workflow = Workflow.from_json(get_workflow(session, row.workflow_id, row.workflow_version).definition)
        return show_execution(row, workflow, read_run(session, row.dag_id, row.dag_run_id))

    return await in_session(read)


def _uuid_text(text: str) -> str:
    """Return a UUID as it is stored; no text that is none ever reaches the database."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""
