"""What a worker lends to an LLM step."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import structlog
from airflow.sdk import BaseXCom
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from pydantic import JsonValue

from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm import LLMRouter
from cognitionos_provider.llm.journal import load_history
from cognitionos_provider.observability import trace_context
from cognitionos_provider.output import OUTPUT_KEY, SPENT_KEY, decode_output, encode_output
from cognitionos_provider.run import RunContext, begun_steps
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
    _set_xcom(ti, OUTPUT_KEY, encode_output(output))


def _set_xcom(ti: Any, key: str, value: str) -> None:
    BaseXCom.set(key=key, value=value, dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=-1)


async def run_on_worker(spec: str, context: Context, *, passes: int | None) -> Outcome:
    """Run a step in this process; see :func:`cognitionos_provider.step.run_step`."""
    ti: Any = context["ti"]
    run = RunContext.of(ti.dag_id, ti.run_id, context["dag_run"].conf, context["params"])
    with (
        trace_context(run.trace_id),
        structlog.contextvars.bound_contextvars(execution_id=run.execution_id),
    ):
        cleared = bool(getattr(context["dag_run"], "clear_number", 0))
        edge = _WorkerEdge(ti, context["task_state_store"], cleared=cleared)
        step = StepSpec.model_validate_json(spec)
        try:
            return await run_step(step, run, edge, passes=passes)
        finally:
            if step.budget_usd is not None or run.budget_usd is not None or step.agent_budget_usd is not None:
                await edge.tell_spent()
            await edge.close()


class _WorkerEdge:
    """The task's own (synchronous) API, and a router for this one step."""

    def __init__(self, ti: Any, state_store: Any, *, cleared: bool) -> None:
        self._ti = ti
        self._cleared = cleared
        self._state_store = state_store
        self._hook = LLMHook()

    @property
    def try_number(self) -> int:
        return int(self._ti.try_number)

    async def output_of(self, step_id: str) -> JsonValue:
        return decode_output(await self._xcom(step_id, OUTPUT_KEY))

    async def router(self) -> LLMRouter:
        return await self._hook.aget_router()

    # Not in XCom: Airflow deletes a task's XComs when a worker starts its next try.

    async def read(self, key: str) -> str | None:
        stored = await asyncio.to_thread(self._state_store.get, key)
        return stored if isinstance(stored, str) else None

    async def write(self, key: str, text: str) -> None:
        await asyncio.to_thread(self._state_store.set, key, text, retention=NEVER_EXPIRE)

    async def spent_by_others(self, reserved: Collection[str], agent_id: str | None = None) -> Decimal:
        # What others have in flight, and which agent they had, can't be told from here.
        states = await asyncio.to_thread(
            self._ti.get_task_states, dag_id=self._ti.dag_id, run_ids=[self._ti.run_id]
        )
        begun = begun_steps(states.get(self._ti.run_id, {}), cleared=self._cleared)
        others = [task_id for task_id in begun if task_id != self._ti.task_id]
        # One after the other: a worker's channel to Airflow takes one question at a time.
        return sum([await self._spent_by(task_id) for task_id in others], Decimal(0))

    async def _spent_by(self, task_id: str) -> Decimal:
        stored = await self._xcom(task_id, SPENT_KEY)
        return Decimal(stored) if isinstance(stored, str) else Decimal(0)

    async def _xcom(self, task_id: str, key: str) -> Any:
        where = {"dag_id": self._ti.dag_id, "run_id": self._ti.run_id, "task_id": task_id, "map_index": -1}
        return await asyncio.to_thread(BaseXCom.get_one, key=key, **where)

    async def tell_spent(self) -> None:
        """Leave what this step has spent where other steps of the run can read it: not so the state store."""
        try:
            spent = (await load_history(self.read)).spent()
            await asyncio.to_thread(_set_xcom, self._ti, SPENT_KEY, str(spent))
        except Exception as error:  # noqa: BLE001 - how the step ended matters more
            self.log("warning", f"what the step has spent could not be told to other steps: {error!r}")

    def log(self, level: str, event: str, **fields: object) -> None:
        getattr(log, level)(event, **fields)

    async def close(self) -> None:
        await self._hook.aclose()
