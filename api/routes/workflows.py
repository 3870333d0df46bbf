"""Workflow definitions: post, list, get."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import SkipValidation
from sqlalchemy.orm import Session

from api.airflow_db import DagState, dag_states, foreign_bundle, request_parsing
from api.bodies import read_body, small_definition
from api.deps import Caller, CallerDep, SessionDep, in_session
from api.examples import DATA_PIPELINE
from api.problems import Problem
from api.schemas import Deployment, StoredWorkflow, WorkflowList, WorkflowSummary
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.definitions.json_value import text_problem
from cognitionos_provider.exceptions import ConflictError, DefinitionError
from cognitionos_provider.observability import get_logger
from cognitionos_provider.store.paging import Cursor
from cognitionos_provider.store.tables import WorkflowRow
from cognitionos_provider.store.workflows import add_workflow, get_workflow, list_workflows, newest_active

__all__ = ["router"]

router = APIRouter(prefix="/api/v3/workflows", tags=["workflows"])
logger = get_logger(__name__)


@router.post(
    "",
    status_code=201,
    response_model=StoredWorkflow,
    dependencies=[Depends(small_definition)],
    summary="Post a workflow",
)
async def create_workflow(
    body: Annotated[Workflow, SkipValidation, Body(openapi_examples={"data-pipeline": DATA_PIPELINE})],
    caller: CallerDep,
) -> Response:
    """Store a workflow version; about a second later it is an Airflow DAG.

    The same content under the same version again is 200; other content is 409: a version never changes.
    """
    await run_in_threadpool(caller.require_authoring)
    workflow = await read_body(Workflow, body)
    _refuse_operators(workflow)
    row, is_new, state = await in_session(lambda session: _store(session, workflow, caller.user_id))
    if is_new:
        logger.info("Workflow created", extra={"workflow_id": row.workflow_id, "version": row.version})
    location = f"/api/v3/workflows/{row.workflow_id}/{row.version}"
    return JSONResponse(_show(workflow, row, state), 201 if is_new else 200, headers={"Location": location})


def _store(session: Session, workflow: Workflow, user_id: str) -> tuple[WorkflowRow, bool, DagState]:
    if bundle := foreign_bundle(session, workflow.dag_id):
        raise ConflictError(
            f"Airflow has a DAG {workflow.dag_id} already, from the bundle {bundle!r}; choose another id or "
            "version"
        )
    before = newest_active(session, workflow.workflow_id)
    row, is_new = add_workflow(session, workflow, created_by=user_id, now=datetime.now(UTC))
    if row.status == "active":
        # Again for a version that is stored already: the request before may have died before it asked for the
        # parsing. And the version that was the highest before loses its schedule.
        request_parsing(session, {row.dag_id} | ({before.dag_id} if before else set()))
    return row, is_new, dag_states(session, [row.dag_id])[row.dag_id]


def _refuse_operators(workflow: Workflow) -> None:
    errors = [
        (("steps", index, "operator"), "No Airflow operator is allowed in workflows that are posted")
        for index, step in enumerate(workflow.steps)
        if step.operator is not None
    ]
    if errors:
        raise DefinitionError(errors)


@router.get("", summary="List workflows")
def get_workflows(
    session: SessionDep,
    caller: CallerDep,
    tag: Annotated[str | None, Query(max_length=100, description="Only workflows with this tag.")] = None,
    status: Annotated[
        Literal["draft", "active", "deprecated", "archived"] | None, Query(description="Only in this state.")
    ] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the id or the name.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=1000, description="next_cursor of the page before.")
    ] = None,
) -> WorkflowList:
    """List workflow versions, the newest first."""
    for name, text in (("tag", tag), ("q", q)):
        if text and (problem := text_problem(text)):
            raise Problem(422, f"{name!r} {problem}", errors=[(("query", name), f"The text {problem}")])
    try:
        place = Cursor.decode(cursor) if cursor else None
    except ValueError as error:
        raise Problem(422, str(error), errors=[(("query", "cursor"), str(error))]) from error
    page = list_workflows(
        session, limit=limit, cursor=place, tag=tag, status=status, q=q, drafts=caller.may_author()
    )
    states = dag_states(session, [row.dag_id for row in page.rows])
    return WorkflowList(
        workflows=[_summarize(row, states[row.dag_id]) for row in page.rows if _may_read(caller, row)],
        total=page.total,
        next_cursor=page.next_cursor,
    )


@router.get("/{workflow_id}/{version}", response_model=StoredWorkflow, summary="Get a workflow")
def get_one_workflow(workflow_id: str, version: str, session: SessionDep, caller: CallerDep) -> Response:
    """Return one version; ``latest`` is the highest active one."""
    if text_problem(workflow_id) or text_problem(version):
        raise Problem(404, f"There is no workflow {workflow_id[:100]!r} {version[:100]!r}")
    row = get_workflow(session, workflow_id, version)
    if not _may_read(caller, row):
        raise Problem(
            403, f"{caller.user_id} may not read {row.workflow_id} {row.version}, which is {row.status}"
        )
    # The definition was checked when it was stored; here it is only given its defaults.
    workflow = Workflow.from_json(row.definition)
    return JSONResponse(_show(workflow, row, dag_states(session, [row.dag_id])[row.dag_id]))


def _may_read(caller: Caller, row: WorkflowRow) -> bool:
    return caller.may_author() if row.status == "draft" else caller.may("GET", row.dag_id)


def _deployment(row: WorkflowRow, state: DagState) -> Deployment:
    if state.import_error is not None:
        return Deployment(state="failed", error=state.import_error)
    return Deployment(state="runnable" if state.known else "pending")


def _show(workflow: Workflow, row: WorkflowRow, state: DagState) -> dict[str, Any]:
    stored = _summarize(row, state).model_dump(
        mode="json", include={"dag_id", "created_at", "created_by", "deployment"}
    )
    return {**workflow.model_dump(mode="json"), "status": row.status, **stored}


def _summarize(row: WorkflowRow, state: DagState) -> WorkflowSummary:
    return WorkflowSummary(
        workflow_id=row.workflow_id,
        version=row.version,
        name=row.name,
        description=row.description,
        tags=json.loads(row.tags),
        schedule=row.schedule,
        status=row.status,
        dag_id=row.dag_id,
        created_at=row.created_at,
        created_by=row.created_by,
        deployment=_deployment(row, state),
    )
