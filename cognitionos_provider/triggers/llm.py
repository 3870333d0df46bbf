"""The trigger that runs an LLM step from start to end, in the triggerer and without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from decimal import Decimal
from typing import Any

import structlog
from airflow.sdk import BaseXCom
from airflow.triggers.base import (
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)
from pydantic import JsonValue

from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm import LLMRouter
from cognitionos_provider.llm.journal import History, load_history
from cognitionos_provider.observability import set_trace_id
from cognitionos_provider.output import OUTPUT_KEY, decode_output, encode_output
from cognitionos_provider.run import RunContext, begun_steps
from cognitionos_provider.step import StepSpec, run_step
from cognitionos_provider.triggers.channel import task_states

__all__ = ["LLMStepTrigger"]

# Airflow writes what is logged in a trigger's context into its task's log.
log = structlog.get_logger("cognitionos")


class LLMStepTrigger(BaseTrigger):
    """Runs one LLM step.

    :param spec: a :class:`~cognitionos_provider.step.StepSpec` as JSON text. Text, because Airflow's
        deserializers look into nested values of a trigger's arguments.
    """

    def __init__(self, spec: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spec = spec

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return ("cognitionos_provider.triggers.llm.LLMStepTrigger", {"spec": self.spec})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the step; the one event ends the task. Nothing may be raised: that would cost a worker."""
        try:
            event = await self._run()
        except Exception:
            log.exception("the step could not be run")
            event = TaskFailedEvent()
        yield event

    async def _run(self) -> TriggerEvent:
        spec = StepSpec.model_validate_json(self.spec)
        ti: Any = self.task_instance
        context = ti.get_template_context()
        run = RunContext.of(ti.dag_id, ti.run_id, context["dag_run"].conf, context["params"])
        set_trace_id(run.trace_id)
        structlog.contextvars.bind_contextvars(execution_id=run.execution_id)
        cleared = bool(getattr(context["dag_run"], "clear_number", 0))
        outcome = await run_step(spec, run, _TriggerEdge(ti, cleared=cleared))
        if outcome.state == "success":
            # Airflow commits the keys of an event one by one, the first together with the task's end: so one key.
            # In a thread: the output of a fan-out may be large.
            output = await asyncio.to_thread(encode_output, outcome.output)
            return TaskSuccessEvent(xcoms={OUTPUT_KEY: output})
        return TaskSkippedEvent() if outcome.state == "skipped" else TaskFailedEvent()


class _TriggerEdge:
    """What the triggerer lends to a step: XComs over the supervisor's channel, the process's router.

    XComs in the database, whatever backend the deployment has for them: Airflow writes the XComs of an event there,
    the facade reads them there, and an object store would be waited for on the event loop.
    """

    def __init__(self, ti: Any, *, cleared: bool) -> None:
        self._ti = ti
        self._cleared = cleared

    @property
    def try_number(self) -> int:
        return int(self._ti.try_number)

    async def output_of(self, step_id: str) -> JsonValue:
        return decode_output(await self._get(step_id, OUTPUT_KEY))

    async def router(self) -> LLMRouter:
        return await LLMHook().aget_router()

    async def read(self, key: str) -> str | None:
        stored = await self._get(self._ti.task_id, key)
        return stored if isinstance(stored, str) else None

    async def write(self, key: str, text: str) -> None:
        await BaseXCom.aset(
            key=key,
            value=text,
            dag_id=self._ti.dag_id,
            run_id=self._ti.run_id,
            task_id=self._ti.task_id,
            map_index=-1,
        )

    async def spent_by_others(self, reserved: Collection[str], agent_id: str | None = None) -> Decimal:
        states = await task_states(self._ti.dag_id, self._ti.run_id)
        begun = begun_steps(states, cleared=self._cleared)
        histories = await asyncio.gather(
            *(self._journal_of(task_id) for task_id in begun if task_id != self._ti.task_id)
        )
        return sum(
            (each.spent(reserved) for each in histories if agent_id in (None, each.agent_id)), Decimal(0)
        )

    async def _journal_of(self, task_id: str) -> History:
        async def read(key: str) -> str | None:
            stored = await self._get(task_id, key)
            return stored if isinstance(stored, str) else None

        return await load_history(read)

    async def _get(self, task_id: str, key: str) -> Any:
        return await BaseXCom.aget_one(
            key=key, dag_id=self._ti.dag_id, run_id=self._ti.run_id, task_id=task_id, map_index=-1
        )

    def log(self, level: str, event: str, **fields: object) -> None:
        getattr(log, level)(event, **fields)
