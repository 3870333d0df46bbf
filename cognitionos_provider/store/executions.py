"""What is asked of the table of executions. Plain functions that take a session and never commit."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pydantic import JsonValue
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cognitionos_provider.store.tables import ExecutionRow

__all__ = ["NewExecution", "add_execution", "find_execution", "remove_execution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """What is known of an execution before its run exists."""

    execution_id: uuid.UUID
    workflow_id: str
    workflow_version: str
    dag_id: str
    dag_run_id: str
    inputs: dict[str, JsonValue]
    budget_usd: Decimal | None
    user_id: str | None
    trace_id: str
    created_at: datetime


def add_execution(session: Session, new: NewExecution) -> ExecutionRow:
    """Write down an execution, before Airflow is asked for its run: a crash in between loses nothing."""
    row = ExecutionRow(
        execution_id=str(new.execution_id),
        workflow_id=new.workflow_id,
        workflow_version=new.workflow_version,
        dag_id=new.dag_id,
        dag_run_id=new.dag_run_id,
        inputs=json.dumps(new.inputs),
        budget_usd=new.budget_usd,
        user_id=new.user_id,
        trace_id=new.trace_id,
        created_at=new.created_at,
    )
    session.add(row)
    session.flush()
    return row


def find_execution(session: Session, execution_id: str) -> ExecutionRow | None:
    """Return the execution with this id, or None where this facade started none of that id."""
    return session.scalars(select(ExecutionRow).where(ExecutionRow.execution_id == execution_id)).first()


def remove_execution(session: Session, execution_id: str) -> None:
    """Forget an execution whose run was never started."""
    session.execute(delete(ExecutionRow).where(ExecutionRow.execution_id == execution_id))
