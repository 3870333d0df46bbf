"""One LLM step, run from its inputs to its outcome.

Everything that touches the world is passed in: where outputs of other steps come from, who is asked, where the
record goes. The trigger and the operator are the two edges that pass it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import JsonValue

from cognitionos_provider.definitions import LLMOverrides, evaluate
from cognitionos_provider.definitions.schema import value_violations
from cognitionos_provider.exceptions import (
    CognitionOSError,
    DeadlineExceededError,
    DefinitionError,
    LLMError,
)
from cognitionos_provider.llm.answer import clean
from cognitionos_provider.llm.budget import Budget
from cognitionos_provider.llm.journal import Journal, JournalStore
from cognitionos_provider.llm.policy import Action, rule_for
from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse, Message, Retry
from cognitionos_provider.prompt import Prompt
from cognitionos_provider.run import RunContext
from cognitionos_provider.step_spec import StepSpec

if TYPE_CHECKING:
    from cognitionos_provider.llm import LLMRouter

__all__ = ["Outcome", "StepEdge", "StepSpec", "run_step"]

_T = TypeVar("_T")

DEADLINE_MARGIN = 0.25
"""Seconds that a step may take beyond its timeout."""

# How long a step whose work is done may take to put the rest on record.
_LAST_WRITE_SECONDS = 5.0
# How long a step that was cancelled may take to put the calls that it gave up on record.
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    state: Literal["success", "skipped", "failed"]
    output: JsonValue = None
    error: str | None = None
    can_retry: bool = False
    """Whether a later try may end better."""


class StepEdge(JournalStore, Protocol):
    """What the trigger or the operator lends to a step. Its journal is kept under keys of the step's own."""

    @property
    def try_number(self) -> int:
        """Which try of the task this is, from 1."""

    async def output_of(self, step_id: str) -> JsonValue:
        """Return the output of a step before this one."""

    async def router(self) -> LLMRouter:
        """Return who asks the models."""

    async def spent_by_others(self, reserved: Collection[str], agent_id: str | None = None) -> Decimal:
        """Return what the other steps of the run have spent, in USD, as their journals have it.

        Not what the calls ``reserved`` may cost, whose money is reserved in this process. With ``agent_id``, only
        steps of that agent.
        """

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write a line into the task's log."""


async def run_step(spec: StepSpec, run: RunContext, edge: StepEdge, *, passes: int | None = None) -> Outcome:
    """Run a step to its end. Never raises but for cancellation: whatever goes wrong is the outcome's ``error``.

    :param passes: how often the chain of models is gone through, in place of the step's ``retry.max_attempts``;
        1 where somebody else makes the retries.
    """
    step = spec.step
    journal = Journal(edge, edge.try_number, agent_id=spec.agent_id)
    try:
        # The router keeps the deadline, and tells what was asked until then; this is for what is not the router's.
        async with asyncio.timeout(step.timeout_seconds + DEADLINE_MARGIN):
            outcome = await _StepRun(spec, run, edge, journal, passes).outcome()
    except TimeoutError:
        outcome = Outcome(
            "failed",
            error=f"Step {step.step_id!r} did not end within its timeout of {step.timeout_seconds:g} s"
            + _last_failure(journal),
            can_retry=True,
        )
    except LLMError as error:
        outcome = Outcome("failed", error=str(error), can_retry=error.can_retry)
    except CognitionOSError as error:
        outcome = Outcome("failed", error=f"Step {step.step_id!r}: {error}")
    except asyncio.CancelledError:
        await _say_farewell(journal)
        raise
    except Exception as error:  # noqa: BLE001 - what leaves a trigger as an exception costs a worker
        outcome = Outcome("failed", error=f"Step {step.step_id!r} broke: {type(error).__name__}: {error}")
        edge.log("error", "the step broke", exc_info=error)
    if outcome.state == "failed":
        edge.log("error", f"step failed: {outcome.error}")
    try:
        async with asyncio.timeout(_LAST_WRITE_SECONDS):
            await journal.finish(clean(outcome.error))
    except Exception as error:  # noqa: BLE001
        edge.log("error", "the record of this try could not be kept", exc_info=error)
    return outcome


async def _say_farewell(journal: Journal) -> None:
    try:
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await journal.flush()
    except Exception:  # noqa: BLE001, S110 - the calls' intents are on record, and what became of them follows from that
        pass


def _last_failure(journal: Journal) -> str:
    """Return the end of a sentence that says how the last failed call failed, or nothing."""
    failed = [attempt for attempt in journal.history.attempts() if attempt.outcome == "error"]
    if not failed:
        return ""
    return f"; the last call failed: {failed[-1].provider}:{failed[-1].model}: {failed[-1].message}"


class _StepRun:
    """One run of one step: keeps what its parts share."""

    def __init__(
        self, spec: StepSpec, run: RunContext, edge: StepEdge, journal: Journal, passes: int | None
    ) -> None:
        self.spec, self.step, self.run, self.edge, self.journal = spec, spec.step, run, edge, journal
        self.retry = spec.step.retry if passes is None else Retry(max_attempts=passes)
        self.budgets = self.budgets_of_run()
        self._router: LLMRouter | None = None
        self.deadline = time.monotonic() + spec.step.timeout_seconds

    async def outcome(self) -> Outcome:
        if self.spec.input_schema is not None:
            # In a thread: a schema may take its time.
            await asyncio.to_thread(_check_inputs, self.spec.input_schema, self.run)
        _, outputs = await asyncio.gather(
            self.again(self.journal.open), asyncio.gather(*map(self.output_of, self.spec.needs))
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

    async def router(self) -> LLMRouter:
        """Return one router for all items: a connection that is changed meanwhile serves the next step."""
        if self._router is None:
            self._router = await self.again(self.edge.router)
        return self._router

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
        if items:
            # Before the items ask for it, all at once.
            await self.router()
        late = DeadlineExceededError(f"The time was up after {self.step.timeout_seconds:g} s")
        results: list[tuple[JsonValue, Exception | None]] = [({"error": str(late)}, late)] * len(items)
        waiting = iter(enumerate(items))

        async def work() -> None:
            for index, item in waiting:
                if time.monotonic() >= self.deadline:
                    return
                try:
                    results[index] = await self.answer({**context, "item": item}, index), None
                except Exception as error:  # noqa: BLE001 - one item must not take the others with it
                    message = str(error) if isinstance(error, CognitionOSError) else f"{error!r}"
                    results[index] = {"error": clean(message)}, error
                # An answer that was there already takes no turn of the loop, and there may be thousands.
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.step.max_concurrency, len(items))):
                group.create_task(work())
        failures = [(index, error) for index, (_, error) in enumerate(results) if error is not None]
        if failures and self.step.on_item_error == "fail":
            index, first = failures[0]
            return Outcome(
                "failed",
                error=f"{len(failures)} of {len(items)} items failed; item {index}: {first}",
                can_retry=any(isinstance(error, LLMError) and error.can_retry for _, error in failures),
            )
        return Outcome("success", output=[output for output, _ in results])

    async def answer(self, context: Mapping[str, Any], item: int | None = None) -> JsonValue:
        """Ask the models once, for the step or for one item of its list."""
        response = await self.ask(self.prompt.messages(context), item)
        if response.source != "provider":
            where = "this run's journal" if response.source == "journal" else "the cache"
            of_item = "" if item is None else f" for item {item}"
            self.edge.log(
                "info",
                f"the answer of {response.provider}:{response.model}{of_item} comes from {where}: nothing was paid",
            )
        if response.finish_reason == "length":
            self.edge.log(
                "warning", f"the answer of {response.provider}:{response.model} was cut off at max_tokens"
            )
        return response.content if self.step.output_schema is None else response.output

    async def ask(self, messages: Sequence[Message], item: int | None) -> LLMResponse:
        llm = self.step.llm or LLMOverrides()
        policy = dict(llm.policy)
        if llm.on_refusal == "fallback":
            policy.setdefault("refusal", Action.NEXT)
        request = LLMRequest(
            messages=list(messages),
            models=tuple(llm.models or ()),
            temperature=llm.temperature,
            max_tokens=llm.max_tokens,
            timeout_seconds=max(self.deadline - time.monotonic(), 0.001),
            retry=self.retry,
            policy=policy,
            output_schema=self.step.output_schema,
            max_cost_usd=None if llm.max_cost_usd is None else Decimal(str(llm.max_cost_usd)),
            unpriced=self.spec.unpriced,
            cache_ttl_seconds=llm.cache_ttl_seconds,
        )
        router = await self.router()
        return await router.generate(
            request,
            journal=self.journal,
            item=item,
            budgets=self.budgets,
            group=self.run.execution_id,
            on_attempt=lambda attempt: self.edge.log(*_log_line(attempt)),
            on_asking=lambda *asked: self.edge.log("info", "asking {}:{}".format(*asked)),
        )

    def budgets_of_run(self) -> list[Budget]:
        """Return the budgets that bound this step: the run's, and its agent's."""
        run_id = self.run.execution_id
        limits = [self.run.budget_usd, self.spec.budget_usd]
        given = [Decimal(str(limit)) for limit in limits if limit is not None]
        budgets = []
        if given:
            budgets.append(
                Budget(f"execution/{{{run_id}}}", min(given), "the run's budget", self.spent_by_run)
            )
        if self.spec.agent_budget_usd is not None:
            name = f"the budget of agent {self.spec.agent_id!r}"
            key = f"agent/{{{run_id}}}/{self.spec.agent_id}"
            spent = partial(self.spent_by_run, self.spec.agent_id)
            budgets.append(Budget(key, Decimal(str(self.spec.agent_budget_usd)), name, spent))
        return budgets

    async def spent_by_run(self, agent_id: str | None = None) -> Decimal:
        router = await self.router()
        others = await self.again(lambda: self.edge.spent_by_others(router.in_flight, agent_id))
        return self.journal.history.spent(router.in_flight) + others


def _log_line(attempt: Attempt) -> tuple[str, str]:
    asked = f"{attempt.provider}:{attempt.model}"
    if attempt.outcome == "ok":
        cost = "unknown price" if attempt.cost_usd is None else f"${attempt.cost_usd:.6f}"
        tokens = f"{attempt.usage.total_tokens} tokens" if attempt.usage else "no usage told"
        return "info", f"{asked} answered in {attempt.latency_ms:.0f} ms: {tokens}, {cost}"
    if attempt.error_class == "cached":
        return "info", f"{asked}: {attempt.message}"
    if attempt.outcome == "skipped":
        return "warning", f"{asked} skipped: {attempt.message}"
    level = "critical" if rule_for(attempt.error_class).alert else "warning"
    billed = "; it may have been billed" if attempt.possibly_billed else ""
    return level, f"{asked} failed after {attempt.latency_ms:.0f} ms: {attempt.message}{billed}"


def _check_inputs(schema: dict[str, JsonValue], run: RunContext) -> None:
    given = {key: value for key, value in run.inputs.items() if value is not None or key in run.given}
    if violations := value_violations(schema, given):
        raise DefinitionError([(("inputs", *item.loc), item.msg) for item in violations])
