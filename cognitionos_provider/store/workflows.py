"""What is asked of the table of workflow versions. Plain functions that take a session and never commit."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cognitionos_provider.definitions import Workflow, version_key
from cognitionos_provider.exceptions import ConflictError, NotFoundError
from cognitionos_provider.store.paging import Cursor, Page
from cognitionos_provider.store.tables import WorkflowRow

__all__ = [
    "BUNDLE_NAME",
    "DEPLOYED_STATUSES",
    "Deployment",
    "add_workflow",
    "dag_file_name",
    "deployments",
    "get_workflow",
    "list_workflows",
    "load_definitions",
    "newest_active",
]

BUNDLE_NAME = "cognitionos"
"""The name under which the bundle of stored workflows stands in ``[dag_processor] dag_bundle_config_list``."""

DEPLOYED_STATUSES = ("active", "deprecated")
"""A version with one of these has a DAG. A deprecated one keeps it, so that its running executions go on."""


_Selected = TypeVar("_Selected", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Deployment:
    """A workflow version that has a DAG."""

    dag_id: str
    content_hash: str
    since: datetime
    """When it got its status: a schedule does not reach back behind it."""
    scheduled: bool
    """Whether this is the version that follows the workflow's schedule: the highest active one."""


def dag_file_name(dag_id: str) -> str:
    """Return the path of a DAG's file, relative to the bundle; what a parsing request names."""
    return f"{dag_id}.py"


def add_workflow(
    session: Session, workflow: Workflow, *, created_by: str | None, now: datetime
) -> tuple[WorkflowRow, bool]:
    """Store a version, and say whether it is new.

    The same content under the same version is given back as it is (``False``); a version never changes.

    :raises ConflictError: this version exists with other content.
    """
    if existing := session.get(WorkflowRow, (workflow.workflow_id, workflow.version)):
        return _same(existing, workflow), False
    major, minor, patch = version_key(workflow.version)
    row = WorkflowRow(
        workflow_id=workflow.workflow_id,
        version=workflow.version,
        major=major,
        minor=minor,
        patch=patch,
        dag_id=workflow.dag_id,
        content_hash=workflow.content_hash(),
        status=workflow.status,
        name=workflow.name,
        description=workflow.description,
        schedule=workflow.schedule,
        tags=json.dumps(list(workflow.tags)),
        definition=workflow.canonical_json(),
        created_at=now,
        created_by=created_by,
        updated_at=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        # The same version was posted at the same time, by another request.
        return _same(get_workflow(session, workflow.workflow_id, workflow.version), workflow), False
    return row, True


def _same(existing: WorkflowRow, workflow: Workflow) -> WorkflowRow:
    if existing.content_hash != workflow.content_hash():
        raise ConflictError(
            f"Workflow {workflow.workflow_id} {workflow.version} exists with other content, and a version never "
            "changes; post the new content under a higher version"
        )
    return existing


def get_workflow(session: Session, workflow_id: str, version: str) -> WorkflowRow:
    """Return one version; ``latest`` is the highest active one.

    :raises NotFoundError: there is no such workflow, or no such version of it.
    """
    if version == "latest":
        found = newest_active(session, workflow_id)
        missing = "no active version"
    else:
        found = session.get(WorkflowRow, (workflow_id, version))
        missing = f"no version {version}"
    if found is not None:
        return found
    versions = session.scalars(
        _newest_first(select(WorkflowRow.version).where(WorkflowRow.workflow_id == workflow_id)).limit(5)
    ).all()
    if not versions:
        raise NotFoundError(f"There is no workflow {workflow_id!r}")
    raise NotFoundError(f"Workflow {workflow_id!r} has {missing}; it has {', '.join(versions)}")


def newest_active(session: Session, workflow_id: str) -> WorkflowRow | None:
    """Return the highest active version, or None where no version is active."""
    query = _newest_first(select(WorkflowRow).where(WorkflowRow.workflow_id == workflow_id))
    return session.scalars(query.where(WorkflowRow.status == "active").limit(1)).first()


def _newest_first(query: _Selected) -> _Selected:
    return query.order_by(WorkflowRow.major.desc(), WorkflowRow.minor.desc(), WorkflowRow.patch.desc())


def list_workflows(
    session: Session,
    *,
    limit: int,
    cursor: Cursor | None = None,
    tag: str | None = None,
    status: str | None = None,
    q: str | None = None,
    drafts: bool = True,
) -> Page[WorkflowRow]:
    """Return a page of versions, the newest first.

    :param tag: only versions that carry exactly this tag.
    :param q: only versions with this text in their id or name, whatever the case.
    :param drafts: whether drafts are listed and counted, too.
    """
    filters: list[ColumnElement[bool]] = []
    if not drafts:
        filters.append(WorkflowRow.status != "draft")
    if tag is not None:
        # LIKE would ignore case on SQLite; a replacement that changes the text is exact on every database.
        filters.append(func.replace(WorkflowRow.tags, json.dumps(tag), "") != WorkflowRow.tags)
    if status is not None:
        filters.append(WorkflowRow.status == status)
    if q:
        filters.append(
            or_(
                WorkflowRow.workflow_id.icontains(q, autoescape=True),
                WorkflowRow.name.icontains(q, autoescape=True),
            )
        )
    total = session.scalar(select(func.count()).select_from(WorkflowRow).where(*filters)) or 0
    query = select(WorkflowRow).where(*filters)
    if cursor is not None:
        query = query.where(
            or_(
                WorkflowRow.created_at < cursor.at,
                and_(WorkflowRow.created_at == cursor.at, WorkflowRow.dag_id < cursor.key),
            )
        )
    query = query.order_by(WorkflowRow.created_at.desc(), WorkflowRow.dag_id.desc()).limit(limit + 1)
    rows = session.scalars(query).all()
    return Page.cut(rows, limit, total, lambda row: Cursor(row.created_at, row.dag_id))


def deployments(session: Session) -> list[Deployment]:
    """List every version that has a DAG, in one narrow query."""
    columns = (
        WorkflowRow.workflow_id,
        WorkflowRow.major,
        WorkflowRow.minor,
        WorkflowRow.patch,
        WorkflowRow.dag_id,
        WorkflowRow.content_hash,
        WorkflowRow.status,
        WorkflowRow.updated_at,
    )
    rows = session.execute(select(*columns).where(WorkflowRow.status.in_(DEPLOYED_STATUSES))).all()
    highest: dict[str, tuple[int, int, int]] = {}
    for row in rows:
        version = (row.major, row.minor, row.patch)
        if row.status == "active" and version > highest.get(row.workflow_id, (-1, -1, -1)):
            highest[row.workflow_id] = version
    return [
        Deployment(
            row.dag_id,
            row.content_hash,
            row.updated_at,
            row.status == "active" and highest[row.workflow_id] == (row.major, row.minor, row.patch),
        )
        for row in rows
    ]


def load_definitions(session: Session, dag_ids: Collection[str]) -> dict[str, str]:
    """Return the stored definitions (canonical JSON) by DAG id."""
    found: dict[str, str] = {}
    ids: Sequence[str] = sorted(dag_ids)
    # SQLite allows a limited number of parameters in one statement.
    for start in range(0, len(ids), 500):
        query = select(WorkflowRow.dag_id, WorkflowRow.definition).where(
            WorkflowRow.dag_id.in_(ids[start : start + 500])
        )
        found.update({row.dag_id: row.definition for row in session.execute(query)})
    return found
