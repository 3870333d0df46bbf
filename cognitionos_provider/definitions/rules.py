"""The rules that concern more than one field: which fields go together, the graph, the templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cognitionos_provider.definitions.graph import graph_violations, upstream_masks
from cognitionos_provider.definitions.json_value import strings_in
from cognitionos_provider.definitions.schema import value_violations
from cognitionos_provider.definitions.template import Reference, references
from cognitionos_provider.definitions.violation import MAX_VIOLATIONS, Loc, Violation, did_you_mean
from cognitionos_provider.exceptions import TemplateError

if TYPE_CHECKING:
    from cognitionos_provider.definitions.workflow import Step, Workflow

__all__ = ["step_violations", "workflow_violations"]

_FOR_EACH_OPTIONS = ("max_concurrency", "max_items", "on_item_error")
_DOTTED_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")


def step_violations(step: Step) -> list[Violation]:
    """List which fields of one step contradict each other; paths start at the step."""
    violations = []
    if step.for_each is None:
        violations += [
            Violation((option,), f"'{option}' is an option of for_each, which this step does not have")
            for option in _FOR_EACH_OPTIONS
            if option in step.model_fields_set
        ]
    if step.operator is None:
        if "arguments" in step.model_fields_set:
            violations.append(
                Violation(("arguments",), "'arguments' are those of an operator; name one in 'operator'")
            )
        return violations
    if not _DOTTED_PATH.fullmatch(step.operator):
        example = "airflow.providers.standard.operators.bash.BashOperator"
        msg = f"{step.operator!r} is no dotted path of an operator class, such as {example}"
        violations.append(Violation(("operator",), msg))
    only_llm = {
        "llm": step.llm is not None,
        "for_each": step.for_each is not None,
        "output_schema": step.output_schema is not None,
        "agent_capability": step.agent_capability != "default",
        "inputs": bool(step.inputs),
    }
    for field, is_used in only_llm.items():
        if is_used:
            fix = "; give it 'arguments'" if field == "inputs" else ""
            violations.append(
                Violation((field,), f"'{field}' is for LLM steps, and this step runs an operator{fix}")
            )
    return violations


def workflow_violations(workflow: Workflow) -> list[Violation]:
    """List what is wrong with the graph and the templates, at most 50 places; paths start at the workflow."""
    steps = workflow.steps
    broken = graph_violations(steps, _named(workflow))
    violations = [*_input_violations(workflow), *broken]
    bits = {step.step_id: 1 << index for index, step in enumerate(steps)}
    # In a broken graph what is upstream is not known, and each break has its own message already.
    upstream = dict.fromkeys(bits, -1) if broken else upstream_masks(steps)
    for index, step in enumerate(steps):
        for loc, text, is_expression in _templates(step):
            if len(violations) >= MAX_VIOLATIONS:
                return violations
            where = ("steps", index, *loc)
            try:
                used = references(text, expression=is_expression)
            except TemplateError as error:
                violations.append(Violation(where, str(error), "template"))
                continue
            if Reference("item") in used and (step.for_each is None or is_expression):
                msg = f"Step '{step.step_id}' uses 'item', which only the inputs and prompts of for_each have"
                violations.append(Violation(where, msg, "template"))
            for name in sorted(reference.step for reference in used if reference.step is not None):
                if not bits.get(name, 0) & upstream[step.step_id]:
                    msg = _not_upstream(step.step_id, name, workflow)
                    violations.append(Violation(where, msg, "template"))
    return violations


def _input_violations(workflow: Workflow) -> list[Violation]:
    """List the defaults that break their own schema, and inputs that a scheduled run could not have."""
    schema = workflow.input_schema
    properties = schema.get("properties") if schema else None
    if schema is None or not isinstance(properties, dict):
        return []
    defaults = {
        name: value["default"]
        for name, value in properties.items()
        if isinstance(value, dict) and "default" in value
    }
    violations = [
        Violation(
            ("input_schema", "properties", item.loc[0], "default"), f"The default is not valid: {item.msg}"
        )
        for item in value_violations({**schema, "required": []}, defaults)
        if item.loc
    ]
    required = schema.get("required")
    if workflow.schedule is not None and isinstance(required, list):
        violations += [
            Violation(
                ("input_schema", "required", index),
                f"Input '{name}' is required and has no default, and a run that the schedule starts is given no "
                "inputs; give it a default, or drop the schedule",
            )
            for index, name in enumerate(required)
            if name not in defaults
        ]
    return violations


def _templates(step: Step) -> Iterator[tuple[Loc, str, bool]]:
    """Yield path, text, and whether it is a bare expression, of all that may hold templates."""
    for field in ("condition", "for_each"):
        text = getattr(step, field)
        if text is not None:
            yield (field,), text, True
    for field in ("inputs", "arguments"):
        for loc, text in strings_in(getattr(step, field)):
            if "{{" in text:
                yield (field, *loc), text, False
    for field in ("system_prompt", "prompt") if step.llm else ():
        text = getattr(step.llm, field)
        if text is not None:
            yield ("llm", field), text, False


def _named(workflow: Workflow) -> str:
    return f"{workflow.workflow_id} {workflow.version}"


def _not_upstream(step_id: str, used: str, workflow: Workflow) -> str:
    if used == step_id:
        return f"Step '{step_id}' uses its own output, which is not there before it has run"
    user = f"Step '{step_id}' uses the output of '{used[:150]}'"
    known = sorted({step.step_id for step in workflow.steps} - {step_id})
    if used not in known:
        return f"{user}, which is no step of workflow {_named(workflow)}{did_you_mean(used, known)}"
    return f"{user}, but does not depend on it; add '{used}' to its depends_on"
