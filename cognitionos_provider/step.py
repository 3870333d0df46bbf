"""One LLM step, run from its inputs to its outcome.

Everything that touches the world is passed in: where outputs of other steps come from, who is asked, where the
record goes. The trigger and the operator are the two edges that pass it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from cognitionos_provider.definitions import Step, Workflow, evaluate, references
from cognitionos_provider.definitions.schema import value_violations
from cognitionos_provider.exceptions import CognitionOSError, DefinitionError, LLMError
from cognitionos_provider.llm.request import LLMRequest, LLMResponse, Message, Retry
from cognitionos_provider.prompt import Prompt, parse_json_answer
from cognitionos_provider.record import clean
from cognitionos_provider.recorder import Recorder, RecordKeeper
from cognitionos_provider.run import RunContext

if TYPE_CHECKING:
    from cognitionos_provider.llm import LLMRouter

__all__ = ["Outcome", "StepEdge", "StepSpec", "run_step"]

_T = TypeVar("_T")

DEADLINE_MARGIN = 0.25
"""Seconds that a step may take beyond its timeout."""


class StepSpec(BaseModel):
    """All that a step needs to know, as it travels from the DAG file to the triggerer or worker."""

    model_config = ConfigDict(frozen=True)

    workflow_id: str
    workflow_version: str
    step: Step
    needs: tuple[str, ...] = ()
    """The steps whose outputs it reads."""
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    state: Literal["success", "skipped", "failed"]
    output: JsonValue = None
    error: str | None = None
    can_retry: bool = False
    """Whether a later try may end better."""


class StepEdge(RecordKeeper, Protocol):
    """What the trigger or the operator lends to a step."""

    async def output_of(self, step_id: str) -> JsonValue:
        """Return the output of a step before this one."""

    async def router(self) -> LLMRouter:
        """Return who asks the models."""


async def run_step(spec: StepSpec, run: RunContext, edge: StepEdge, *, passes: int | None = None) -> Outcome:
    """Run a step to its end. Never raises but for cancellation: whatever goes wrong is the outcome's ``error``.

    :param passes: how often the chain of models is gone through, in place of the step's ``retry.max_attempts``;
        1 where somebody else makes the retries.
    """
    recorder = Recorder(edge)
    step = spec.step
    try:
        # The router keeps the deadline, and tells what was asked until then; this is for what is not the router's.
        async with asyncio.timeout(step.timeout_seconds + DEADLINE_MARGIN):
            outcome = await _StepRun(spec, run, edge, recorder, passes).outcome()
    except TimeoutError:
        outcome = Outcome(
            "failed",
            error=f"Step {step.step_id!r} did not end within its timeout of {step.timeout_seconds:g} s"
            + recorder.last_failure(),
            can_retry=True,
        )
    except LLMError as error:
        outcome = Outcome("failed", error=str(error), can_retry=error.can_retry)
    except CognitionOSError as error:
        outcome = Outcome("failed", error=f"Step {step.step_id!r}: {error}")
    except Exception as error:  # noqa: BLE001 - what leaves a trigger as an exception costs a worker
        outcome = Outcome("failed", error=f"Step {step.step_id!r} broke: {type(error).__name__}: {error}")
        edge.log("error", "the step broke", exc_info=error)
    if outcome.state == "failed":
        edge.log("error", f"step failed: {outcome.error}")
    try:
        await recorder.finish(clean(outcome.error))
    except Exception as error:  # noqa: BLE001
        edge.log("error", "the record of this try could not be kept", exc_info=error)
    return outcome


class _StepRun:
    """One run of one step: keeps what its parts share."""

    def __init__(
        self, spec: StepSpec, run: RunContext, edge: StepEdge, recorder: Recorder, passes: int | None
    ) -> None:
        self.spec, self.step, self.run, self.edge, self.recorder = spec, spec.step, run, edge, recorder
        self.retry = spec.step.retry if passes is None else Retry(max_attempts=passes)
        self.others_retry = passes is not None
        self.deadline = time.monotonic() + spec.step.timeout_seconds

    async def outcome(self) -> Outcome:
        if self.spec.input_schema is not None:
            # In a thread: a schema may take its time.
            await asyncio.to_thread(_check_inputs, self.spec.input_schema, self.run)
        _, outputs = await asyncio.gather(
            self.recorder.resume(), asyncio.gather(*map(self.output_of, self.spec.needs))
        )
        before = dict(zip(self.spec.needs, outputs, strict=True))
        self.prompt = Prompt(self.step, self.run, before)
        context: dict[str, Any] = {
            "inputs": self.run.inputs,
            "steps": {step_id: {"output": output} for step_id, output in before.items()},
            "run": {"execution_id": self.run.execution_id},
        }
        if self.step.condition is not None and not evaluate(self.step.condition, context):
            self.edge.log("info", f"step skipped: its condition is false: {self.step.condition}")
            return Outcome("skipped")
        if self.step.for_each is None:
            return Outcome("success", output=await self.answer(context))
        return await self.answers(context)

    async def output_of(self, step_id: str) -> JsonValue:
        return await self.again(lambda: self.edge.output_of(step_id))

    async def again(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Read something of Airflow, again after a while where it does not answer: a step fails for good."""
        pause = self.step.retry.backoff_seconds
        for _ in range(self.step.retry.max_attempts - 1):
            try:
                return await read()
            except CognitionOSError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the channel to Airflow raises
                self.edge.log("warning", f"Airflow could not be asked, trying again: {error!r}")
            await asyncio.sleep(min(pause, self.step.retry.max_backoff_seconds))
            pause *= self.step.retry.backoff_multiplier
        return await read()

    async def answers(self, context: Mapping[str, Any]) -> Outcome:
        """Ask once for each item of the list, a bounded number at a time."""
        assert self.step.for_each is not None  # noqa: S101 - the caller's branch
        items = evaluate(self.step.for_each, context)
        if not isinstance(items, list):
            raise DefinitionError(
                [(("for_each",), f"{self.step.for_each} gives {type(items).__name__}, and a list is needed")]
            )
        if len(items) > self.step.max_items:
            raise DefinitionError(
                [(("for_each",), f"the list has {len(items)} items, and max_items is {self.step.max_items}")]
            )
        places = asyncio.Semaphore(self.step.max_concurrency)

        async def one(item: JsonValue) -> tuple[JsonValue, Exception | None]:
            async with places:
                try:
                    return await self.answer({**context, "item": item}), None
                except Exception as error:  # noqa: BLE001 - one item must not take the others with it
                    message = str(error) if isinstance(error, CognitionOSError) else f"{error!r}"
                    return {"error": clean(message)}, error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
        results = [task.result() for task in tasks]
        failures = [(index, error) for index, (_, error) in enumerate(results) if error is not None]
        if failures and self.step.on_item_error == "fail":
            index, first = failures[0]
            return Outcome(
                "failed",
                error=f"{len(failures)} of {len(items)} items failed; item {index}: {first}",
                can_retry=any(isinstance(error, LLMError) and error.can_retry for _, error in failures),
            )
        return Outcome("success", output=[output for output, _ in results])

    async def answer(self, context: Mapping[str, Any]) -> JsonValue:
        """Ask the models once, and again while the answer breaks ``output_schema``."""
        messages = self.prompt.messages(context)
        if self.step.output_schema is None:
            return (await self.ask(messages)).content
        for _ in range(self.retry.max_attempts):
            response = await self.ask(messages)
            value, problem = await asyncio.to_thread(
                parse_json_answer, response.content, self.step.output_schema
            )
            if problem is None:
                return value
            self.edge.log("warning", f"the answer breaks output_schema: {problem}", model=response.model)
            messages = [
                *messages,
                Message(role="assistant", content=response.content),
                Message(
                    role="user", content=f"That does not satisfy the JSON Schema: {problem}. Answer again."
                ),
            ]
        raise LLMError(
            f"Step {self.step.step_id!r}: the answer breaks output_schema: {problem}",
            can_retry=self.others_retry,
        )

    async def ask(self, messages: Sequence[Message]) -> LLMResponse:
        llm = self.step.llm
        request = LLMRequest(
            messages=list(messages),
            models=tuple(llm.models or ()) if llm else (),
            temperature=llm.temperature if llm else None,
            max_tokens=llm.max_tokens if llm else None,
            timeout_seconds=max(self.deadline - time.monotonic(), 0.001),
            retry=self.retry,
        )
        router = await self.again(self.edge.router)
        return await router.generate(
            request,
            on_attempt=self.recorder.add,
            on_asking=lambda *asked: self.edge.log("info", "asking {}:{}".format(*asked)),
        )


def _check_inputs(schema: dict[str, JsonValue], run: RunContext) -> None:
    given = {key: value for key, value in run.inputs.items() if value is not None or key in run.given}
    if violations := value_violations(schema, given):
        raise DefinitionError([(("inputs", *item.loc), item.msg) for item in violations])
