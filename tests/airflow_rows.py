"""Rows in Airflow's own tables, written through its models' tables as its processes would leave them."""

import json
import uuid
from datetime import UTC, datetime

from airflow.jobs.job import Job
from airflow.models.dag import DagModel
from airflow.models.dagbag import DagPriorityParsingRequest
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.errors import ParseImportError
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import delete, insert, select

from cognitionos_provider.llm.journal import JOURNAL_KEY_PREFIX
from cognitionos_provider.output import OUTPUT_KEY, encode_output
from cognitionos_provider.store.tables import ExecutionRow, WorkflowRow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# Children before parents.
WRITTEN = (
    TaskStateStoreModel,
    XComModel,
    TaskInstance,
    DagRun,
    DagModel,
    DagBundleModel,
    ParseImportError,
    DagPriorityParsingRequest,
    Job,
    ExecutionRow,
    WorkflowRow,
)


def journal_text(*attempts, error=None, agent_id=None):
    """What a process leaves of one try in the journal: calls, and why it failed."""
    entries = [{"kind": "attempt", "attempt": attempt.model_dump(mode="json")} for attempt in attempts]
    if error is not None:
        entries.append({"kind": "ended", "error": error})
    return json.dumps({"writer": "w", "agent_id": agent_id, "entries": entries})


class AirflowRows:
    def __init__(self, engine):
        self.engine = engine

    def clear(self):
        with self.engine.begin() as connection:
            for model in WRITTEN:
                connection.execute(delete(model.__table__))

    def clear_requests(self):
        with self.engine.begin() as connection:
            connection.execute(delete(DagPriorityParsingRequest.__table__))

    def add(self, model, **values):
        with self.engine.begin() as connection:
            return connection.execute(insert(model.__table__).values(**values)).inserted_primary_key

    def all(self, model):
        with self.engine.begin() as connection:
            return connection.execute(select(model.__table__)).mappings().all()

    def dag(self, dag_id, *, bundle="cognitionos", is_paused=False, is_stale=False):
        if bundle not in [row["name"] for row in self.all(DagBundleModel)]:
            self.add(DagBundleModel, name=bundle, active=True)
        self.add(
            DagModel,
            dag_id=dag_id,
            bundle_name=bundle,
            is_paused=is_paused,
            is_stale=is_stale,
            max_active_tasks=16,
            max_consecutive_failed_dag_runs=0,
            has_task_concurrency_limits=False,
        )

    def import_error(self, dag_id, stacktrace, bundle="cognitionos"):
        self.add(ParseImportError, filename=f"{dag_id}.py", bundle_name=bundle, stacktrace=stacktrace)

    def job(self, job_type, latest_heartbeat, state="running"):
        self.add(Job, job_type=job_type, state=state, latest_heartbeat=latest_heartbeat)

    def run(self, dag_id, run_id, state="running", **values):
        times = {"queued_at": NOON, "start_date": NOON, "end_date": None, "run_after": NOON}
        row = {"dag_id": dag_id, "run_id": run_id, "state": state, "run_type": "manual", **times, **values}
        return self.add(DagRun, **row)[0]

    def task(self, dag_id, run_id, task_id, state, **values):
        times = {"start_date": NOON, "end_date": None}
        row = {"id": uuid.uuid4(), "dag_id": dag_id, "run_id": run_id, "task_id": task_id, "state": state}
        self.add(TaskInstance, pool="default_pool", **row, **{**times, **values})

    def xcom(self, run, dag_id, run_id, task_id, key, value, map_index=-1):
        row = {"dag_run_id": run, "dag_id": dag_id, "run_id": run_id, "task_id": task_id, "key": key}
        self.add(XComModel, value=value, map_index=map_index, **row)

    def output(self, *where, value, by_event=True, map_index=-1):
        """Leave an output: the event of a trigger stores JSON in JSON, SetXCom the text itself."""
        text = encode_output(value)
        self.xcom(*where, OUTPUT_KEY, json.dumps(text) if by_event else text, map_index)

    def journal(self, *where, attempts=(), try_number=1, **fields):
        self.xcom(*where, f"{JOURNAL_KEY_PREFIX}{try_number:04d}.00", journal_text(*attempts, **fields))

    def kept_by_worker(self, run, dag_id, run_id, task_id, key, value):
        row = {"dag_run_id": run, "dag_id": dag_id, "run_id": run_id, "task_id": task_id, "key": key}
        self.add(TaskStateStoreModel, value=value, updated_at=NOON, **row)

    def parsing_requests(self):
        return sorted(row["relative_fileloc"] for row in self.all(DagPriorityParsingRequest))
