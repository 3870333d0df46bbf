"""What a worker lends to an LLM step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from airflow.sdk import BaseXCom
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from pydantic import JsonValue

from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm import LLMRouter
from cognitionos_provider.observability import trace_context
from cognitionos_provider.record import OUTPUT_KEY, StepRecord, decode_output, encode_output, record_key
from cognitionos_provider.run import RunContext
from cognitionos_provider.step import Outcome, StepSpec, run_step

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["run_on_worker", "write_output"]

log = structlog.get_logger("cognitionos")


def write_output(ti: Any, output: JsonValue) -> None:
    """Keep a step's output where the trigger's event would put it.

    In the database, whatever backend the deployment has for XComs: the facade reads it there, and so do steps in
    the triggerer.
    """
    BaseXCom.set(
        key=OUTPUT_KEY,
        value=encode_output(output),
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1,
    )


async def run_on_worker(spec: str, context: Context, *, passes: int | None) -> Outcome:
    """Run a step in this process; see :func:`cognitionos_provider.step.run_step`."""
    ti: Any = context["ti"]
    run = RunContext.of(ti.dag_id, ti.run_id, context["dag_run"].conf, context["params"])
    with (
        trace_context(run.trace_id),
        structlog.contextvars.bound_contextvars(execution_id=run.execution_id),
    ):
        edge = _WorkerEdge(ti, context["task_state_store"])
        try:
            return await run_step(StepSpec.model_validate_json(spec), run, edge, passes=passes)
        finally:
            await edge.close()


class _WorkerEdge:
    """The task's own (synchronous) API, and a router for this one step."""

    def __init__(self, ti: Any, state_store: Any) -> None:
        self._ti = ti
        self._state_store = state_store
        self._hook = LLMHook()

    async def output_of(self, step_id: str) -> JsonValue:
        stored = await asyncio.to_thread(
            BaseXCom.get_one,
            key=OUTPUT_KEY,
            dag_id=self._ti.dag_id,
            run_id=self._ti.run_id,
            task_id=step_id,
            map_index=-1,
        )
        return decode_output(stored)

    async def read_record(self) -> StepRecord | None:
        stored = await asyncio.to_thread(self._state_store.get, record_key(self._ti.try_number))
        return None if stored is None else StepRecord.model_validate_json(stored)

    async def router(self) -> LLMRouter:
        return await self._hook.aget_router()

    async def write_record(self, record: StepRecord) -> None:
        # Not into XCom: Airflow deletes a task's XComs when a worker starts its next try.
        await asyncio.to_thread(
            self._state_store.set,
            record_key(self._ti.try_number),
            record.model_dump_json(),
            retention=NEVER_EXPIRE,
        )

    def log(self, level: str, event: str, **fields: object) -> None:
        getattr(log, level)(event, **fields)

    async def close(self) -> None:
        await self._hook.aclose()
