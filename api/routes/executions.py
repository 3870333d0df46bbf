"""Executions: start a run, and see how it goes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.airflow_db import dag_states, read_run, request_parsing
from api.deps import AirflowDep, CallerDep, ConfigDep, session_factory
from api.limits import small_inputs
from api.problems import Problem
from api.schemas import ExecuteRequest, Execution
from api.status import show_execution
from cognitionos_provider.definitions import Workflow, check_inputs
from cognitionos_provider.exceptions import DefinitionError
from cognitionos_provider.observability import get_logger, get_trace_id, new_trace_id
from cognitionos_provider.run import RESERVED_KEY, make_conf
from cognitionos_provider.store.executions import NewExecution, add_execution, find_execution, remove_execution
from cognitionos_provider.store.tables import ExecutionRow
from cognitionos_provider.store.workflows import get_workflow

__all__ = ["router"]

router = APIRouter(prefix="/api/v3/workflows", tags=["executions"])
logger = get_logger(__name__)

POLL_SECONDS = 0.1

T = TypeVar("T")


async def _in_session(work: Callable[[Session], T]) -> T:
    """Do database work in a thread, in a session of its own that is committed at its end."""

    def run() -> T:
        with session_factory().begin() as session:
            return work(session)

    return await run_in_threadpool(run)


@router.post("/execute", status_code=202, dependencies=[Depends(small_inputs)], summary="Start a run")
async def execute_workflow(
    body: ExecuteRequest, response: Response, caller: CallerDep, airflow: AirflowDep, config: ConfigDep
) -> Execution:
    """Start a run of a workflow.

    A workflow that was posted a moment ago is waited for. The execution is written down before Airflow is asked
    for its run, under a run id of ours, so that nothing that dies in between makes a second run or loses this one.
    """
    workflow = await _in_session(lambda session: _startable(session, body))
    caller.require("POST", workflow.dag_id)
    await _until_runnable(workflow.dag_id, config.api.execute_wait_seconds)
    execution_id = uuid.uuid4()
    trace_id = get_trace_id() or new_trace_id()
    budgets = [budget for budget in (body.budget_usd, workflow.budget_usd) if budget is not None]
    budget = min(budgets) if budgets else None
    new = NewExecution(
        execution_id=execution_id,
        workflow_id=workflow.workflow_id,
        workflow_version=workflow.version,
        dag_id=workflow.dag_id,
        dag_run_id=f"cognitionos__{execution_id}",
        inputs=body.inputs,
        budget_usd=None if budget is None else Decimal(str(budget)),
        user_id=caller.user_id,
        trace_id=trace_id,
        created_at=datetime.now(UTC),
    )
    row = await _in_session(lambda session: add_execution(session, new))
    conf = make_conf(
        body.inputs,
        execution_id=row.execution_id,
        trace_id=trace_id,
        budget_usd=None if budget is None else str(budget),
    )
    try:
        await airflow.start_run(row.dag_id, row.dag_run_id, conf, token=caller.token)
    except Problem:
        await _in_session(lambda session: _forget_unless_running(session, row))
        raise
    logger.info(
        "Execution started",
        extra={"execution_id": row.execution_id, "dag_id": row.dag_id, "dag_run_id": row.dag_run_id},
    )
    response.headers["Location"] = f"/api/v3/workflows/executions/{row.execution_id}"
    return show_execution(row, workflow, None)


def _startable(session: Session, body: ExecuteRequest) -> Workflow:
    row = get_workflow(session, body.workflow_id, body.workflow_version)
    if row.status != "active":
        raise Problem(409, f"Workflow {row.workflow_id} {row.version} is {row.status}; only an active one can be started")
    if RESERVED_KEY in body.inputs:
        raise DefinitionError([(("inputs", RESERVED_KEY), f"{RESERVED_KEY!r} is a reserved name")])
    workflow = Workflow.from_json(row.definition)
    check_inputs(workflow, body.inputs)
    return workflow


async def _until_runnable(dag_id: str, seconds: float) -> None:
    """Wait until Airflow knows the DAG.

    :raises Problem: 409 where it can't be built or is paused, 503 where the wait is over.
    """
    until = time.monotonic() + seconds
    asked = False
    while True:
        state = (await _in_session(lambda session: dag_states(session, [dag_id])))[dag_id]
        if state.import_error is not None:
            raise Problem(409, f"The DAG of this workflow can't be built: {state.import_error}")
        if state.is_paused:
            raise Problem(409, f"The DAG {dag_id} is paused; unpause it in Airflow to start runs")
        if state.known:
            return
        if not asked:
            # The request that came with the workflow may have been served by a DAG processor that then died.
            await _in_session(lambda session: request_parsing(session, [dag_id]))
            asked = True
        if time.monotonic() > until:
            raise Problem(
                503,
                f"Airflow's DAG processor has not built {dag_id} within {seconds:g} s; is it running, with the "
                "bundle 'cognitionos' in its dag_bundle_config_list? No run was started",
                retry_after=5,
            )
        await asyncio.sleep(POLL_SECONDS)


def _forget_unless_running(session: Session, row: ExecutionRow) -> None:
    """Forget an execution whose start failed, unless Airflow has made its run all the same."""
    if read_run(session, row.dag_id, row.dag_run_id) is None:
        remove_execution(session, row.execution_id)


@router.get("/executions/{execution_id}", summary="Get an execution")
async def get_execution(
    execution_id: Annotated[str, Path(max_length=64)], caller: CallerDep
) -> Execution:
    """Return how a run goes: its status, its steps with every call to a provider, its outputs and its cost."""

    def read(session: Session) -> Execution:
        row = find_execution(session, execution_id)
        if row is None:
            raise Problem(404, f"There is no execution {execution_id!r}")
        caller.require("GET", row.dag_id)
        workflow = Workflow.from_json(get_workflow(session, row.workflow_id, row.workflow_version).definition)
        return show_execution(row, workflow, read_run(session, row.dag_id, row.dag_run_id))

    return await _in_session(read)
