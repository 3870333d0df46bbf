"""What the facade answers with. A definition is :class:`cognitionos_provider.definitions.Workflow` itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.definitions.identifier import Version, WorkflowId
from cognitionos_provider.definitions.json_value import JsonObject
from cognitionos_provider.llm.request import Attempt, Usage

__all__ = [
    "Deployment",
    "ExecuteRequest",
    "Execution",
    "Health",
    "ProblemDocument",
    "StepStatus",
    "StoredWorkflow",
    "WorkflowList",
    "WorkflowSummary",
]


class Deployment(BaseModel):
    """Whether the workflow's DAG can be started."""

    state: Literal["pending", "runnable", "failed"]
    error: str | None = Field(default=None, description="Why the DAG could not be built.")


class _Stored(BaseModel):
    dag_id: str = Field(description="The id of the DAG in Airflow.")
    created_at: datetime
    created_by: str | None
    deployment: Deployment


class WorkflowSummary(_Stored):
    """A workflow version as lists show it: without its steps and schemas."""

    workflow_id: str
    version: str
    name: str
    description: str
    tags: list[str]
    schedule: str | None
    status: str


class WorkflowList(BaseModel):
    """A page of workflow versions, the newest first."""

    workflows: list[WorkflowSummary]
    total: int
    next_cursor: str | None


class StoredWorkflow(Workflow, _Stored):
    """A workflow version: the definition, and what became of it."""

    model_config = ConfigDict(extra="ignore")

    status: str  # type: ignore[assignment]


class ExecuteRequest(BaseModel):
    """Which workflow to run, and with what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "workflow_id": "data-pipeline",
                    "workflow_version": "1.0.0",
                    "inputs": {"data_source": "production", "batch_size": 1000},
                }
            ]
        },
    )

    workflow_id: WorkflowId
    workflow_version: Version | Literal["latest"] = Field(
        default="latest", description="A version, or the highest active one."
    )
    inputs: JsonObject = Field(default={}, description="The run's inputs.")
    budget_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Most that this run may spend; it can only lower the workflow's own."
    )


class StepStatus(BaseModel):
    """How a step of an execution went."""

    step_id: str
    status: Literal["pending", "running", "completed", "failed", "skipped", "cancelled", "retrying"]
    started_at: datetime | None = None
    completed_at: datetime | None = None
    output: JsonValue = None
    error: str | None = None
    agent_id: str | None = None
    provider: str | None = None
    model: str | None = None
    cost_usd: float | None = None
    usage: Usage | None = None
    attempts: list[Attempt] = []


class Execution(BaseModel):
    """A run of a workflow."""

    execution_id: str
    workflow_id: str
    workflow_version: str
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    inputs: dict[str, JsonValue]
    outputs: dict[str, JsonValue] = Field(
        default={}, description="The outputs of the steps that nothing depends on."
    )
    error: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    user_id: str | None
    cost_usd: float = 0.0
    unpriced_calls: int = Field(default=0, description="Calls whose price is not known, and not in cost_usd.")
    usage: Usage = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    trace_id: str
    dag_id: str
    dag_run_id: str
    steps: list[StepStatus] = []


Part = Literal["healthy", "unhealthy", "not_configured"]


class AirflowHealth(BaseModel):
    """The processes of Airflow."""

    scheduler: Part
    triggerer: Part
    dag_processor: Part
    api_server: Part


class Health(BaseModel):
    """Whether the facade and what it stands on work."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    timestamp: datetime
    database: Part
    redis: Part
    rabbitmq: Part
    airflow: AirflowHealth


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    trace_id: str | None
    errors: list[dict[str, JsonValue]] | None = None
