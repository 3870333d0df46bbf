"""Workflow definitions: post, list, get."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse

from api.airflow_db import DagState, dag_states, request_parsing
from api.deps import CallerDep, SessionDep
from api.limits import small_definition
from api.problems import Problem
from api.schemas import Deployment, StoredWorkflow, WorkflowList, WorkflowSummary
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.exceptions import DefinitionError
from cognitionos_provider.observability import get_logger
from cognitionos_provider.store.paging import Cursor
from cognitionos_provider.store.tables import WorkflowRow
from cognitionos_provider.store.workflows import add_workflow, get_workflow, list_workflows, newest_active

__all__ = ["router"]

router = APIRouter(prefix="/api/v3/workflows", tags=["workflows"])
logger = get_logger(__name__)


@router.post(
    "", status_code=201, response_model=StoredWorkflow, dependencies=[Depends(small_definition)], summary="Post a workflow"
)
def create_workflow(workflow: Workflow, session: SessionDep, caller: CallerDep) -> Response:
    """Store a workflow version; about a second later it is an Airflow DAG.

    The same content under the same version again is 200; other content under it is 409: a version never changes.
    """
    caller.require_authoring()
    _refuse_operators(workflow)
    before = newest_active(session, workflow.workflow_id)
    row, is_new = add_workflow(session, workflow, created_by=caller.user_id, now=datetime.now(UTC))
    # Again for a version that is stored already: the request before may have died before it asked for the parsing.
    # The version that was the highest before loses its schedule.
    touched = {row.dag_id} | ({before.dag_id} if before else set())
    if row.status == "active":
        request_parsing(session, touched)
    session.commit()
    if is_new:
        logger.info("Workflow created", extra={"workflow_id": row.workflow_id, "version": row.version})
    state = dag_states(session, [row.dag_id])[row.dag_id]
    location = f"/api/v3/workflows/{row.workflow_id}/{row.version}"
    return JSONResponse(_show(row, state), 201 if is_new else 200, headers={"Location": location})


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
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
) -> WorkflowList:
    """List workflow versions, the newest first."""
    for name, text in (("tag", tag), ("q", q)):
        if text and "\0" in text:
            raise Problem(422, f"{name!r} holds a NUL character", errors=[(("query", name), "A NUL character")])
    try:
        place = Cursor.decode(cursor) if cursor else None
    except ValueError as error:
        raise Problem(422, str(error), errors=[(("query", "cursor"), str(error))]) from error
    page = list_workflows(session, limit=limit, cursor=place, tag=tag, status=status, q=q)
    states = dag_states(session, [row.dag_id for row in page.rows])
    return WorkflowList(
        workflows=[_summarize(row, states[row.dag_id]) for row in page.rows if caller.may("GET", row.dag_id)],
        total=page.total,
        next_cursor=page.next_cursor,
    )


@router.get("/{workflow_id}/{version}", response_model=StoredWorkflow, summary="Get a workflow")
def get_one_workflow(workflow_id: str, version: str, session: SessionDep, caller: CallerDep) -> Response:
    """Return one version; ``latest`` is the highest active one."""
    row = get_workflow(session, workflow_id, version)
    caller.require("GET", row.dag_id)
    return JSONResponse(_show(row, dag_states(session, [row.dag_id])[row.dag_id]))


def _deployment(row: WorkflowRow, state: DagState) -> Deployment:
    if state.import_error is not None:
        return Deployment(state="failed", error=state.import_error)
    return Deployment(state="runnable" if state.known else "pending")


def _show(row: WorkflowRow, state: DagState) -> dict[str, Any]:
    # The definition was checked when it was stored; here it is only given its defaults.
    definition = Workflow.from_json(row.definition).model_dump(mode="json")
    stored = _summarize(row, state).model_dump(mode="json", include={"dag_id", "created_at", "created_by", "deployment"})
    return {**definition, "status": row.status, **stored}


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
