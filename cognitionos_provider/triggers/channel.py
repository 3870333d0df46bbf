"""What a trigger asks of Airflow for which there is no public asynchronous call.

``RuntimeTaskInstance.get_task_states`` is public, and blocks: on the triggerer's loop it would wait for ever. Its
message can be sent without blocking over the channel that Airflow's own ``aget_one`` and ``aget_connection`` use
(``airflow/sdk/execution_time/comms.py``). ``tests/integration`` runs it in a real triggerer.
"""

from __future__ import annotations

__all__ = ["begun_tasks"]


async def begun_tasks(dag_id: str, run_id: str, *, cleared: bool) -> list[str]:
    """Return the tasks of a run that have begun, so that they may have spent something.

    Of a run of which something was ``cleared``, all: a task that was cleared looks as if it had never begun.
    """
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer = await SUPERVISOR_COMMS.asend(GetTaskStates(dag_id=dag_id, run_ids=[run_id]))
    if not isinstance(answer, TaskStatesResult):
        raise RuntimeError(f"Airflow did not tell the states of the tasks of {run_id}: {answer!r}")
    states = answer.task_states.get(run_id, {})
    return sorted(
        task_id for task_id, state in states.items() if cleared or state not in (None, "scheduled", "queued")
    )
