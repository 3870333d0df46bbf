"""What the facade answers with. A definition is :class:`cognitionos_provider.definitions.Workflow` itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

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


DAG_ID = "The id of the DAG in Airflow."


class _Stored(BaseModel):
    created_at: datetime
    created_by: str | None
    deployment: Deployment


class WorkflowSummary(_Stored):
    """A workflow version as lists show it: without its steps and schemas."""

    workflow_id: str
    version: str
    dag_id: str = Field(description=DAG_ID)
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

    # By its alias: the definition has a property of this name, which pydantic would take for a default.
    airflow_dag_id: str = Field(alias="dag_id", description=DAG_ID)
    status: str  # type: ignore[assignment]


def _or_latest(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    return value if value == "latest" else validate(value)


class ExecuteRequest(BaseModel):
    """Which workflow to run, and with what."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    workflow_id: WorkflowId
    # Not a union with a literal: its errors would name members of the union in their path.
    workflow_version: Annotated[Version, WrapValidator(_or_latest), WithJsonSchema({"type": "string"})] = (
        Field(
            default="latest", description="A version MAJOR.MINOR.PATCH, or 'latest': the highest active one."
        )
    )
    inputs: JsonObject = Field(default={}, description="The run's inputs, at most 256 KiB.")
    budget_usd: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
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


def _to_milliseconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Milliseconds = Annotated[datetime, PlainSerializer(_to_milliseconds, when_used="json")]
"""A point in time as the specification writes it: 2026-02-14T05:00:00.000Z."""

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
    timestamp: Milliseconds
    database: Part
    redis: Part
    rabbitmq: Part
    airflow: AirflowHealth


_ERRORS = {
    "description": "With status 422: the path of each field that is wrong, and what is wrong with it.",
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": {"type": "string"},
        },
        "required": ["loc", "msg"],
    },
}


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    trace_id: str | None
    errors: Annotated[list[dict[str, JsonValue]], WithJsonSchema(_ERRORS)] = []
