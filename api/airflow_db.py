"""All that the facade reads from, and the one thing that it writes to, Airflow's own tables.

They are no public interface of Airflow, so everything that depends on their shape stands here, column by
column; ``tests/api/test_airflow_db.py`` compares it with the installed Airflow's models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cognitionos_provider.llm.journal import JOURNAL_KEY_PREFIX
from cognitionos_provider.output import OUTPUT_KEY
from cognitionos_provider.store.tables import UtcTime
from cognitionos_provider.store.workflows import BUNDLE_NAME, dag_file_name

__all__ = [
    "DagState",
    "Run",
    "TaskRow",
    "dag_states",
    "foreign_bundle",
    "has_run",
    "read_heartbeats",
    "read_run",
    "request_parsing",
    "tables",
]

tables = MetaData()

_dag = Table(
    "dag",
    tables,
    Column("dag_id", String),
    Column("is_paused", Boolean),
    Column("is_stale", Boolean),
    Column("bundle_name", String),
)
_import_error = Table(
    "import_error",
    tables,
    Column("bundle_name", String),
    Column("filename", String),
    Column("stacktrace", Text),
)
_parsing_request = Table(
    "dag_priority_parsing_request",
    tables,
    Column("id", String),
    Column("bundle_name", String),
    Column("relative_fileloc", String),
)
_job = Table(
    "job",
    tables,
    Column("job_type", String),
    Column("state", String),
    Column("latest_heartbeat", UtcTime),
)
_dag_run = Table(
    "dag_run",
    tables,
    Column("dag_id", String),
    Column("run_id", String),
    Column("state", String),
    Column("start_date", UtcTime),
    Column("end_date", UtcTime),
)
_task_instance = Table(
    "task_instance",
    tables,
    Column("dag_id", String),
    Column("run_id", String),
    Column("task_id", String),
    Column("map_index", Integer),
    Column("state", String),
    Column("start_date", UtcTime),
    Column("end_date", UtcTime),
)
_xcom = Table(
    "xcom",
    tables,
    Column("dag_id", String),
    Column("run_id", String),
    Column("task_id", String),
    Column("map_index", Integer),
    Column("key", String),
    Column("value", JSON),
)
_task_state_store = Table(
    "task_state_store",
    tables,
    Column("dag_id", String),
    Column("run_id", String),
    Column("task_id", String),
    Column("map_index", Integer),
    Column("key", String),
    Column("value", Text),
)


@dataclass(frozen=True, slots=True)
class DagState:
    """What Airflow knows about the DAG of a workflow version."""

    known: bool
    """The DAG processor has parsed it, so that it can be triggered."""
    is_paused: bool = False
    import_error: str | None = None
    """The last line of the traceback."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task instance's state and times."""

    state: str | None
    start_date: datetime | None
    end_date: datetime | None


@dataclass(frozen=True, slots=True)
class Run:
    """A DAG run, its task instances, and what the steps left in XCom: all by task id."""

    state: str
    start_date: datetime | None
    end_date: datetime | None
    tasks: dict[str, TaskRow]
    outputs: dict[str, Any]
    journals: dict[str, list[Any]]
    """What the journal's keys hold, in their order."""


def request_parsing(session: Session, dag_ids: Collection[str]) -> None:
    """Ask the DAG processor to refresh the bundle and parse these DAGs' files first, and now.

    What Airflow's own "reparse" button writes (``airflow/models/dagbag.py``, DagPriorityParsingRequest).
    """
    for name in sorted(dag_file_name(dag_id) for dag_id in dag_ids):
        row = {
            "id": hashlib.md5(f"{BUNDLE_NAME}:{name}".encode(), usedforsecurity=False).hexdigest(),
            "bundle_name": BUNDLE_NAME,
            "relative_fileloc": name,
        }
        try:
            with session.begin_nested():
                session.execute(insert(_parsing_request).values(row))
        except IntegrityError:
            # The same request waits already.
            continue


def dag_states(session: Session, dag_ids: Sequence[str]) -> dict[str, DagState]:
    """Return the state of each DAG, in two queries."""
    if not dag_ids:
        return {}
    rows = session.execute(
        select(_dag.c.dag_id, _dag.c.is_paused).where(
            _dag.c.dag_id.in_(dag_ids), _dag.c.is_stale.is_(False), _dag.c.bundle_name == BUNDLE_NAME
        )
    )
    paused = {row.dag_id: bool(row.is_paused) for row in rows}
    files = {dag_file_name(dag_id): dag_id for dag_id in dag_ids}
    errors = session.execute(
        select(_import_error.c.filename, _import_error.c.stacktrace).where(
            _import_error.c.bundle_name == BUNDLE_NAME, _import_error.c.filename.in_(files)
        )
    )
    failed = {files[row.filename]: _last_line(row.stacktrace) for row in errors}
    return {
        dag_id: DagState(dag_id in paused, paused.get(dag_id, False), failed.get(dag_id))
        for dag_id in dag_ids
    }


def _last_line(stacktrace: str | None) -> str:
    lines = (stacktrace or "").strip().splitlines()
    return lines[-1] if lines else "the DAG file can't be imported"


def foreign_bundle(session: Session, dag_id: str) -> str | None:
    """Return the bundle that a DAG comes from, where it is there and not from ours."""
    query = select(_dag.c.bundle_name).where(
        _dag.c.dag_id == dag_id, _dag.c.is_stale.is_(False), _dag.c.bundle_name != BUNDLE_NAME
    )
    return session.scalar(query)


def read_heartbeats(session: Session) -> dict[str, datetime]:
    """Return when a scheduler, a triggerer and a DAG processor that run last gave a sign of life."""
    names = {"SchedulerJob": "scheduler", "TriggererJob": "triggerer", "DagProcessorJob": "dag_processor"}
    rows = session.execute(
        select(_job.c.job_type, func.max(_job.c.latest_heartbeat, type_=UtcTime).label("at"))
        .where(_job.c.job_type.in_(names), _job.c.state == "running")
        .group_by(_job.c.job_type)
    )
    return {names[row.job_type]: row.at for row in rows if row.at is not None}


def has_run(session: Session, dag_id: str, run_id: str) -> bool:
    """Whether Airflow has this run."""
    query = select(_dag_run.c.run_id).where(_dag_run.c.dag_id == dag_id, _dag_run.c.run_id == run_id)
    return session.scalar(query) is not None


def read_run(session: Session, dag_id: str, run_id: str) -> Run | None:
    """Read a run with all its steps, in four queries whatever their number; None if there is no such run."""

    def of_run(table: Table) -> Any:
        return and_(table.c.dag_id == dag_id, table.c.run_id == run_id)

    run = session.execute(select(_dag_run).where(of_run(_dag_run))).first()
    if run is None:
        return None
    tasks = {
        row.task_id: TaskRow(row.state, row.start_date, row.end_date)
        for row in session.execute(
            select(_task_instance).where(of_run(_task_instance), _task_instance.c.map_index == -1)
        )
    }
    outputs: dict[str, Any] = {}
    journals: dict[str, list[Any]] = {}
    xcoms = session.execute(
        select(_xcom.c.task_id, _xcom.c.key, _xcom.c.value)
        .where(
            of_run(_xcom),
            _xcom.c.map_index == -1,
            or_(_xcom.c.key == OUTPUT_KEY, _xcom.c.key.startswith(JOURNAL_KEY_PREFIX, autoescape=True)),
        )
        .order_by(_xcom.c.key)
    )
    for row in xcoms:
        if row.key == OUTPUT_KEY:
            outputs[row.task_id] = row.value
        else:
            journals.setdefault(row.task_id, []).append(row.value)
    kept_by_workers = session.execute(
        select(_task_state_store.c.task_id, _task_state_store.c.value)
        .where(
            of_run(_task_state_store),
            _task_state_store.c.map_index == -1,
            _task_state_store.c.key.startswith(JOURNAL_KEY_PREFIX, autoescape=True),
        )
        .order_by(_task_state_store.c.key)
    )
    for kept in kept_by_workers:
        journals.setdefault(kept.task_id, []).append(_loads(kept.value))
    return Run(
        state=run.state,
        start_date=run.start_date,
        end_date=run.end_date,
        tasks=tasks,
        outputs=outputs,
        journals=journals,
    )


def _loads(stored: str) -> Any:
    """Read a value of the task state store: JSON text (Airflow's execution_api/routes/task_state_store.py)."""
    try:
        return json.loads(stored)
    except (TypeError, ValueError):
        return None
