"""What a step says to a model. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from cognitionos_provider.definitions import Step, render
from cognitionos_provider.llm.answer import clean
from cognitionos_provider.llm.request import Message
from cognitionos_provider.run import RunContext

__all__ = ["Prompt"]

DEFAULT_SYSTEM_PROMPT = (
    "You carry out one step of an automated data workflow. You are told the step's name, the capability that it "
    "calls for, its inputs, and the outputs of the steps before it. Answer with the step's result and nothing else."
)


class Prompt:
    """The messages of one step of one run.

    :param outputs: the outputs of the steps before, by step id.
    """

    def __init__(self, step: Step, run: RunContext, outputs: Mapping[str, JsonValue]) -> None:
        self._step = step
        self._run = run
        self._outputs = outputs
        self._told: dict[str, str] = {}

    def messages(self, context: Mapping[str, Any]) -> list[Message]:
        """Return the step's own prompt, or what the built-in default agent is told.

        :param context: what templates see (``inputs``, ``steps``, ``run``, and ``item`` in a fan-out).
        :raises TemplateError: a template has no value.
        """
        step = self._step
        llm = step.llm
        inputs = render(dict(step.inputs), context)
        system = render(llm.system_prompt, context) if llm and llm.system_prompt else DEFAULT_SYSTEM_PROMPT
        told = [f"Inputs:\n{_text(inputs)}"] if inputs else []
        if llm and llm.prompt:
            parts = [_text(render(llm.prompt, context)), *told]
        else:
            parts = [f"Step: {step.name}", f"Capability: {step.agent_capability}", *told]
            if "item" in context:
                parts.append(f"Item:\n{_text(context['item'])}")
            if self._run.given:
                parts.append(f"Inputs of the run:\n{_text(self._run.given)}")
            parts += [f"Output of step {step_id!r}:\n{self._tell(step_id)}" for step_id in step.depends_on]
        return [
            Message(role="system", content=clean(_text(system))),
            Message(role="user", content=clean("\n\n".join(parts))),
        ]

    def _tell(self, step_id: str) -> str:
        """Return another step's output as text, made once however many items are told."""
        if step_id not in self._told:
            self._told[step_id] = _text(self._outputs[step_id])
        return self._told[step_id]


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
