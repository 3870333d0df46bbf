"""What the store keeps of an execution."""

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError, StatementError

from cognitionos_provider.store.executions import (
    NewExecution,
    add_execution,
    find_execution,
    remove_execution,
)


def new(**fields):
    given = {
        "execution_id": uuid.uuid4(),
        "workflow_id": "w",
        "workflow_version": "1.0.0",
        "dag_id": "w.v1.0.0",
        "dag_run_id": "r1",
        "inputs": {"x": [1, "é", None]},
        "budget_usd": Decimal("0.123456789"),
        "user_id": "me",
        "trace_id": "t",
        "created_at": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
        **fields,
    }
    return NewExecution(**given)


def test_an_execution_comes_back_as_it_was_written(session):
    row = add_execution(session, new())
    session.commit()
    session.expire_all()
    found = find_execution(session, row.execution_id)
    assert json.loads(found.inputs) == {"x": [1, "é", None]}
    assert found.budget_usd == Decimal("0.123456789")
    assert found.created_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert found.created_at.tzinfo is UTC


def test_a_run_belongs_to_one_execution(session):
    add_execution(session, new())
    with pytest.raises(IntegrityError):
        add_execution(session, new())


def test_a_removed_execution_is_gone(session):
    row = add_execution(session, new())
    remove_execution(session, row.execution_id)
    session.expire_all()
    assert find_execution(session, row.execution_id) is None


def test_a_time_without_a_zone_is_refused(session):
    with pytest.raises(StatementError, match="has no time zone"):
        add_execution(session, new(created_at=datetime(2026, 1, 1)))  # noqa: DTZ001 - that is the point
