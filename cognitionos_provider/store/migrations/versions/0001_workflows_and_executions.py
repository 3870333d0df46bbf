"""Workflows and executions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cognitionos_workflow",
        sa.Column("workflow_id", sa.String(200), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("minor", sa.Integer(), nullable=False),
        sa.Column("patch", sa.Integer(), nullable=False),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(250), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "version", name="pk_cognitionos_workflow"),
        sa.UniqueConstraint("dag_id", name="uq_cognitionos_workflow_dag_id"),
    )
    op.create_index("ix_cognitionos_workflow_status", "cognitionos_workflow", ["status"])
    op.create_index(
        "ix_cognitionos_workflow_created_at_dag_id", "cognitionos_workflow", ["created_at", "dag_id"]
    )
    op.create_table(
        "cognitionos_execution",
        sa.Column("execution_id", sa.String(36), nullable=False),
        sa.Column("workflow_id", sa.String(200), nullable=False),
        sa.Column("workflow_version", sa.String(32), nullable=False),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("dag_run_id", sa.String(250), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("budget_usd", sa.Numeric(18, 9), nullable=True),
        sa.Column("user_id", sa.String(250), nullable=True),
        sa.Column("trace_id", sa.String(128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", name="pk_cognitionos_execution"),
        sa.UniqueConstraint("dag_id", "dag_run_id", name="uq_cognitionos_execution_dag_id_dag_run_id"),
    )


def downgrade() -> None:
    op.drop_table("cognitionos_execution")
    op.drop_table("cognitionos_workflow")
