"""A step as it travels from the DAG file to the triggerer or worker. Imported in each parse, so it imports little."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from cognitionos_provider.definitions import Step, Workflow, references

__all__ = ["StepSpec"]


class StepSpec(BaseModel):
    """All that a step needs to know, as it travels from the DAG file to the triggerer or worker."""

    model_config = ConfigDict(frozen=True)

    workflow_id: str
    workflow_version: str
    step: Step
    needs: tuple[str, ...] = ()
    """The steps whose outputs it reads."""
    agent_id: str = "default"
    agent_budget_usd: float | None = None
    """Most that the agent may spend in one run, in USD."""
    budget_usd: float | None = None
    """Most that one run may spend, in USD."""
    unpriced: Literal["refuse", "allow"] = "refuse"
    input_schema: dict[str, JsonValue] | None = None
    """On a step that waits for no other: checked first, since Airflow's Trigger form checks only a part of it."""

    @classmethod
    def of(cls, workflow: Workflow, step: Step, *, checks_inputs: bool = True) -> StepSpec:
        """Compile a step's specification.

        :param checks_inputs: whether it carries the workflow's input schema, if it waits for no other step.
        """
        needs = _read_steps(step)
        if step.llm is None or step.llm.prompt is None:
            needs.update(step.depends_on)
        given: dict[str, Any] = {
            "workflow_id": workflow.workflow_id,
            "workflow_version": workflow.version,
            "step": step,
        }
        if workflow.budget_usd is not None:
            given["budget_usd"] = workflow.budget_usd
        if workflow.unpriced != "refuse":
            given["unpriced"] = workflow.unpriced
        if needs:
            given["needs"] = tuple(sorted(needs))
        if checks_inputs and workflow.input_schema is not None and not step.depends_on:
            given["input_schema"] = workflow.input_schema
        return cls(**given)

    def canonical_json(self) -> str:
        """Return JSON text that is the same for the same step."""
        return json.dumps(
            self.model_dump(mode="json", exclude_unset=True), sort_keys=True, separators=(",", ":")
        )


def _read_steps(step: Step) -> set[str]:
    """Return the steps whose outputs a step's templates read."""
    templates: list[JsonValue] = [dict(step.inputs)]
    if step.llm is not None:
        templates += [step.llm.prompt, step.llm.system_prompt]
    found = references(templates)
    for expression in (step.condition, step.for_each):
        if expression is not None:
            found |= references(expression, expression=True)
    return {reference.step for reference in found if reference.step is not None}
