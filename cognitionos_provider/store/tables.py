"""The tables that this package adds to Airflow's metadata database.

Airflow's own tables are the truth about a run. Kept here is only what Airflow has no place for: the posted
definitions, and who asked for which execution.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "ExecutionRow", "WorkflowRow", "metadata"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """A point in time, always with zone UTC in Python. SQLite forgets the zone, hence the decorator."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would be stored as something else than was meant."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; times are stored in UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Declarative base of this package's tables; apart from Airflow's, so that migrations don't mix."""

    metadata = metadata


class WorkflowRow(Base):
    """One version of a workflow. Everything but ``status`` and ``updated_at`` is written once."""

    __tablename__ = "cognitionos_workflow"

    workflow_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[str] = mapped_column(String(32), primary_key=True)
    # The version's three numbers, so that the database can tell the highest.
    major: Mapped[int] = mapped_column(Integer)
    minor: Mapped[int] = mapped_column(Integer)
    patch: Mapped[int] = mapped_column(Integer)
    dag_id: Mapped[str] = mapped_column(String(250))
    content_hash: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    schedule: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text)
    """JSON list of text."""
    # Up to a megabyte, and no list shows it.
    definition: Mapped[str] = mapped_column(Text, deferred=True)
    """The posted fields as canonical JSON; ``content_hash`` is the SHA-256 of this text."""
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    created_by: Mapped[str | None] = mapped_column(String(250))
    updated_at: Mapped[datetime] = mapped_column(UtcTime)

    __table_args__: Any = (
        UniqueConstraint("dag_id"),
        Index(None, "status"),
        Index(None, "created_at", "dag_id"),
    )


class ExecutionRow(Base):
    """Who asked for which run, when and with what. How the run goes is read from Airflow's tables."""

    __tablename__ = "cognitionos_execution"

    execution_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    workflow_id: Mapped[str] = mapped_column(String(200))
    workflow_version: Mapped[str] = mapped_column(String(32))
    dag_id: Mapped[str] = mapped_column(String(250))
    dag_run_id: Mapped[str] = mapped_column(String(250))
    inputs: Mapped[str] = mapped_column(Text)
    """JSON text."""
    budget_usd: Mapped[Any] = mapped_column(Numeric(18, 9), nullable=True)
    user_id: Mapped[str | None] = mapped_column(String(250))
    trace_id: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    __table_args__: Any = (UniqueConstraint("dag_id", "dag_run_id"),)
