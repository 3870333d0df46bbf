"""What a trigger asks of Airflow for which there is no public asynchronous call.

``RuntimeTaskInstance.get_task_states`` is public, and blocks: on the triggerer's loop it would wait for ever. Its
message can be sent without blocking over the channel that Airflow's own ``aget_one`` and ``aget_connection`` use
(``airflow/sdk/execution_time/comms.py``). ``tests/integration`` runs it in a real triggerer.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["task_states"]


async def task_states(dag_id: str, run_id: str) -> Mapping[str, str | None]:
    """Return the state of each task of a run."""
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer = await SUPERVISOR_COMMS.asend(GetTaskStates(dag_id=dag_id, run_ids=[run_id]))
    if not isinstance(answer, TaskStatesResult):
        raise RuntimeError(f"Airflow did not tell the states of the tasks of {run_id}: {answer!r}")
    states: Mapping[str, str | None] = answer.task_states.get(run_id, {})
    return states
