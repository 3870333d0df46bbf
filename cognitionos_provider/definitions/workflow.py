"""Workflows and their steps, as they are posted, kept and compiled: one model each.

The rules are those of the tables "Workflows" and "A step" of the REST contract. A body that breaks some
raises one ``pydantic.ValidationError``, whose errors carry the path of the field.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from cognitionos_provider.definitions.graph import sinks_of
from cognitionos_provider.definitions.identifier import StepId, Version, WorkflowId
from cognitionos_provider.definitions.json_value import STORABLE, JsonObject, Text, json_violations
from cognitionos_provider.definitions.rules import step_violations, workflow_violations
from cognitionos_provider.definitions.schedule import Schedule, TimeZone
from cognitionos_provider.definitions.schema import JsonSchema, value_violations
from cognitionos_provider.definitions.violation import (
    MAX_VIOLATIONS,
    Loc,
    Violation,
    as_validation_error,
    did_you_mean,
)
from cognitionos_provider.exceptions import DefinitionError
from cognitionos_provider.llm.policy import Action, Fault
from cognitionos_provider.llm.request import Retry

__all__ = ["LLMOverrides", "Step", "Workflow", "check_inputs", "sinks"]

_YEAR = 365 * 24 * 3600

Name = Annotated[str, Field(strict=True, min_length=1, max_length=500), STORABLE]
Tag = Annotated[str, Field(strict=True, min_length=1, max_length=100), STORABLE]
# Strict numbers: neither "300" nor true is a number of seconds.
Seconds = Annotated[float, Field(strict=True, gt=0, le=_YEAR, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
# The most that a column NUMERIC(18, 9) holds.
Dollars = Annotated[float, Field(strict=True, gt=0, le=999_999_999, allow_inf_nan=False)]
ExpressionText = Annotated[str, Field(strict=True, min_length=1), STORABLE]


_PLAIN_WORDS = {
    "dict_type": "Must be a JSON object",
    "missing": "This field is required",
    "model_type": "Must be a JSON object",
    "string_too_short": "Must not be empty",
    "tuple_type": "Must be a list",
}


def _is_consequence(item: ErrorDetails, locs: list[Loc]) -> bool:
    """Tell whether pydantic added an error because of another one that is in the list, too.

    A default can't be made from a field that is wrong, and a list whose bad items were left out is too short.
    """
    if item["type"] == "default_factory_not_called":
        return True
    depth = len(item["loc"])
    return item["type"] == "too_short" and any(
        len(loc) > depth and loc[:depth] == item["loc"] for loc in locs
    )


class _Definition(BaseModel):
    """What the models of a definition have in common: closed, immutable, with errors in plain words."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    concept: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _say_it_plainly(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            found = error.errors(include_url=False)[:MAX_VIOLATIONS]
            locs = [item["loc"] for item in found]
            plain = [cls._in_plain_words(item) for item in found if not _is_consequence(item, locs)]
            raise as_validation_error(cls.__name__, plain) from None

    @classmethod
    def _in_plain_words(cls, item: ErrorDetails) -> Violation:
        # What is renamed here is not met again when the model around this one looks at its errors.
        kind, loc, context = item["type"], item["loc"], item.get("ctx", {})
        name = str(loc[-1])[:100] if loc else ""
        if kind == "extra_forbidden":
            where = (
                f"of {cls.concept}{did_you_mean(name, list(cls.model_fields))}" if len(loc) == 1 else "here"
            )
            return Violation(loc, f"'{name}' is no field {where}", "unknown_field")
        if kind == "too_short":
            return Violation(loc, f"Must have at least {context['min_length']} items", "length")
        if kind == "too_long":
            return Violation(loc, f"Must have at most {context['max_length']} items", "length")
        msg = _PLAIN_WORDS.get(kind) or item["msg"].replace("Input should", "Must", 1)
        return Violation(loc, msg, kind)


class LLMOverrides(_Definition):
    """What a step sets for its model call in place of what its agent says."""

    concept = "llm"

    models: Annotated[tuple[Name, ...], Field(min_length=1, fail_fast=True)] | None = Field(
        default=None, description="Models to try in order, such as openai:gpt-4."
    )
    system_prompt: Text | None = Field(default=None, description="The system prompt; may hold templates.")
    prompt: Text | None = Field(default=None, description="The user's prompt; may hold templates.")
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] | None = Field(
        default=None, description="Most tokens of an answer."
    )
    max_cost_usd: Dollars | None = Field(
        default=None, description="Most that one call may cost, in USD; one that could cost more is not made."
    )
    on_refusal: Literal["fail", "fallback"] = Field(
        default="fail",
        description="fallback: where a model refuses for its content policy, the next one is asked.",
    )
    cache_ttl_seconds: Annotated[float, Field(strict=True, ge=0, le=_YEAR, allow_inf_nan=False)] = Field(
        default=0,
        description="Seconds for which an answer may serve an equal request of another run, if temperature is 0.",
    )
    policy: dict[Fault, Action] = Field(
        default={},
        description="What an error leads to, where it is not the default: fail, next, retry, larger or ask_again.",
    )


class Step(_Definition):
    """One step of a workflow: a model call for an agent capability, or an Airflow operator."""

    concept = "a step"

    step_id: StepId = Field(description="Unique in the workflow; the id of the Airflow task.")
    name: Name = Field(
        default_factory=lambda data: str(data["step_id"]),
        description="What people call it; the id by default.",
    )
    agent_capability: Name = Field(
        default="default", description="What the agent that serves the step must be able to do."
    )
    inputs: JsonObject = Field(
        default={}, description="What the agent is given; its texts may hold templates."
    )
    depends_on: tuple[str, ...] = Field(default=(), description="Ids of the steps that have to end before.")
    timeout_seconds: Seconds = Field(
        default=300.0, description="Seconds for the whole step, its retries included."
    )
    retry: Retry = Field(default_factory=Retry, description="When and how often to try again.")
    condition: ExpressionText | None = Field(
        default=None, description="An expression; if it is false, the step is skipped."
    )
    for_each: ExpressionText | None = Field(
        default=None, description="An expression that gives a list; the step runs once for each item."
    )
    max_concurrency: Annotated[int, Field(strict=True, ge=1, le=1_000)] = Field(
        default=20, description="Items of for_each in flight at once."
    )
    max_items: Annotated[int, Field(strict=True, ge=1, le=100_000)] = Field(
        default=1000, description="Most items that for_each may give."
    )
    on_item_error: Literal["fail", "keep"] = Field(
        default="fail",
        description="fail: the step fails after all items have run; keep: the item holds the error.",
    )
    llm: LLMOverrides | None = Field(default=None, description="Overrides of the agent for this step.")
    output_schema: JsonSchema | None = Field(
        default=None, description="JSON Schema, of type object, that the output satisfies."
    )
    operator: Annotated[str, Field(strict=True, max_length=300)] | None = Field(
        default=None, description="Dotted path of an Airflow operator that runs instead of a model call."
    )
    arguments: JsonObject = Field(
        default={}, description="The operator's arguments; texts may hold templates."
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        if violations := step_violations(self):
            raise as_validation_error("Step", violations)
        return self


class Workflow(_Definition):
    """A workflow: steps, what each depends on, and how its runs are started and bounded."""

    concept = "a workflow"

    workflow_id: WorkflowId
    version: Version = Field(description="Semantic version; a version never changes.")
    name: Name
    description: Text = ""
    tags: Annotated[tuple[Tag, ...], Field(fail_fast=True)] = ()
    metadata: JsonObject = Field(default={}, description="Anything; kept and given back.")
    schedule: Schedule | None = Field(
        default=None, description="Cron expression of five fields, or a preset such as @daily."
    )
    status: Literal["active", "draft"] = "active"
    input_schema: JsonSchema | None = Field(
        default=None, description="JSON Schema, of type object, that the inputs of a run must satisfy."
    )
    budget_usd: Dollars | None = Field(default=None, description="Most that one run may spend, in USD.")
    unpriced: Literal["refuse", "allow"] = Field(
        default="refuse", description="Under a budget: calls to models without a known price."
    )
    timeout_seconds: Seconds | None = Field(default=None, description="Most seconds of one run.")
    timezone: TimeZone = Field(default="UTC", description="IANA time zone of the schedule.")
    max_active_runs: Count = Field(default=1000, description="Runs at the same time.")
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        if violations := workflow_violations(self):
            raise as_validation_error("Workflow", violations)
        return self

    @property
    def dag_id(self) -> str:
        """The id of this version's DAG in Airflow."""
        return f"{self.workflow_id}.v{self.version}"

    def canonical_json(self) -> str:
        """Return the definition as posted: only the given fields, ASCII, compact, with sorted keys.

        Fields that were left out stay out, so that a default that is new or changed in a later release
        makes no stored definition another one.
        """
        body = self.model_dump(mode="json", exclude_unset=True)
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def content_hash(self) -> str:
        """Return the SHA-256 of ``canonical_json`` in hexadecimal: equal for equal content as posted."""
        return hashlib.sha256(self.canonical_json().encode("ascii")).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a workflow from JSON text; the inverse of ``canonical_json``.

        Raises pydantic.ValidationError for text that is no JSON as for a body that breaks a rule.
        """
        return cls.model_validate_json(text)


def check_inputs(workflow: Workflow, inputs: JsonValue) -> None:
    """Raise DefinitionError unless ``inputs`` may start a run of ``workflow``.

    They must be a JSON object that satisfies the workflow's ``input_schema``, where it has one. Paths in
    the error start with ``inputs``.
    """
    if not isinstance(inputs, dict):
        raise DefinitionError([(("inputs",), "The inputs of a run are a JSON object")])
    if workflow.input_schema is None:
        violations = json_violations(inputs)
    else:
        violations = value_violations(workflow.input_schema, inputs)
    if violations:
        raise DefinitionError([(("inputs", *item.loc), item.msg) for item in violations])


def sinks(workflow: Workflow) -> list[str]:
    """Return the ids of the steps that nothing depends on: their outputs are the run's outputs."""
    return sinks_of(workflow.steps)
