"""The operator of an LLM step: starts in the triggerer, or does the whole step on a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.triggers.base import StartTriggerArgs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from cognitionos_provider.step import Outcome

__all__ = ["LLMStepOperator"]


class LLMStepOperator(BaseOperator):
    """Runs one LLM step of a workflow.

    :param spec: a :class:`~cognitionos_provider.step.StepSpec` as JSON text.
    :param start_from_trigger: run in the triggerer from the start, without a worker.
    """

    # Airflow would render these with its own context, in which its variables and connections can be reached.
    # A step's templates come from REST callers: they are rendered in our own language, when the step runs.
    template_fields = ()
    ui_color = "#e8f0fe"

    _stop: Callable[[], object] | None = None

    def __init__(self, *, spec: str, start_from_trigger: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.start_from_trigger = start_from_trigger
        if start_from_trigger:
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls="cognitionos_provider.triggers.llm.LLMStepTrigger",
                trigger_kwargs={"spec": spec},
                next_method="execute_complete",
                next_kwargs=None,
                timeout=None,
            )

    def execute(self, context: Context) -> None:
        """Do the whole step here: worker mode, and ``airflow dags test``.

        :raises AirflowSkipException: the step's condition is false.
        :raises AirflowFailException: the step failed, and trying again would not help.
        :raises AirflowException: the step failed, and Airflow may try again.
        """
        # Imported here, since the DAG processor imports this module for every file it parses.
        from cognitionos_provider.operators.worker import run_on_worker, write_output

        async def run() -> Outcome:
            # Where Airflow makes the retries, a try makes one pass over the models.
            step = asyncio.ensure_future(
                run_on_worker(self.spec, context, passes=1 if self.retries else None)
            )
            loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(step.cancel)
            return await step

        outcome = asyncio.run(run())
        if outcome.state == "skipped":
            raise AirflowSkipException("The step's condition is false")
        if outcome.state == "failed":
            raise (AirflowException if outcome.can_retry else AirflowFailException)(outcome.error)
        write_output(context["ti"], outcome.output)

    def on_kill(self) -> None:
        """Close the call that is under way. Called by the signal handler of Airflow's task runner."""
        if self._stop is not None:
            self._stop()

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Never called by our trigger, whose events end the task; Airflow wants a method to name."""
        raise AirflowFailException(f"The step's trigger ended with an event that it never sends: {event!r}")
