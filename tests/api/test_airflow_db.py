"""What the facade reads from Airflow's tables, on SQLite and on PostgreSQL."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from airflow.models import import_all_models
from airflow.models.base import metadata as airflow_metadata
from airflow.models.dagbag import DagPriorityParsingRequest
from airflow_rows import NOON, journal_text
from sqlalchemy import JSON, Boolean, DateTime, Integer, String, event

from api.airflow_db import (
    DagState,
    TaskRow,
    dag_states,
    foreign_bundle,
    has_run,
    read_heartbeats,
    read_run,
    request_parsing,
    tables,
)
from cognitionos_provider.output import decode_output

DAG, RUN = "w.v1.0.0", "cognitionos__1"

COLUMNS = [(table.name, column.name) for table in tables.sorted_tables for column in table.columns]


@contextmanager
def counted(session):
    statements = []

    def note(*arguments):
        statements.append(arguments[2])

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[".".join(where) for where in COLUMNS])
def test_each_column_that_is_read_is_one_of_the_installed_airflow_and_of_the_same_kind(table, column):
    import_all_models()
    ours, theirs = tables.tables[table].c[column].type, airflow_metadata.tables[table].c[column].type
    kinds = [kind for kind in (String, Integer, Boolean, JSON, DateTime) if isinstance(_plain(theirs), kind)]
    assert len(kinds) == 1
    assert isinstance(_plain(ours), kinds[0])


def _plain(column_type):
    # Both sides have a type of their own for points in time.
    return getattr(column_type, "impl_instance", column_type)


def test_the_tables_are_there_in_the_migrated_database(session):
    for table in tables.sorted_tables:
        session.execute(table.select()).all()


@pytest.mark.parametrize("dag_id", [DAG, "a" * 200 + ".v999999999.0.0"])
def test_a_parsing_request_is_the_one_that_airflow_would_write(session, rows, dag_id):
    rows.add(DagPriorityParsingRequest, bundle_name="cognitionos", relative_fileloc=f"{dag_id}.py")
    [theirs] = rows.all(DagPriorityParsingRequest)
    rows.clear()
    request_parsing(session, [dag_id])
    session.commit()
    assert rows.all(DagPriorityParsingRequest) == [theirs]


def test_a_parsing_request_that_waits_already_is_left_alone_and_spoils_nothing(session, rows):
    request_parsing(session, [DAG])
    request_parsing(session, ["v.v1.0.0", DAG])
    session.commit()
    assert rows.parsing_requests() == ["v.v1.0.0.py", "w.v1.0.0.py"]


def test_the_state_of_a_dag_is_what_airflow_knows_of_it(session, rows):
    rows.dag("known")
    rows.dag("paused", is_paused=True)
    rows.dag("stale", is_stale=True)
    rows.dag("foreign", bundle="dags-folder")
    rows.dag("broken")
    rows.import_error("broken", 'Traceback\n  File "x"\nValueError: no such thing\n')
    rows.import_error("never", "")
    rows.import_error("foreign", "not ours", bundle="dags-folder")
    rows.import_error("silent", None)
    ids = ["known", "paused", "stale", "foreign", "broken", "never", "silent", "unknown"]
    with counted(session) as statements:
        states = dag_states(session, ids)
    assert len(statements) == 2
    assert states == {
        "known": DagState(known=True),
        "paused": DagState(known=True, is_paused=True),
        "stale": DagState(known=False),
        "foreign": DagState(known=False),
        "broken": DagState(known=True, import_error="ValueError: no such thing"),
        "never": DagState(known=False, import_error="the DAG file can't be imported"),
        "silent": DagState(known=False, import_error="the DAG file can't be imported"),
        "unknown": DagState(known=False),
    }


def test_no_dags_are_no_query(session):
    with counted(session) as statements:
        assert dag_states(session, []) == {}
    assert statements == []


def test_a_dag_of_another_bundle_is_foreign_unless_it_is_gone(session, rows):
    rows.dag("ours")
    rows.dag("theirs", bundle="dags-folder")
    rows.dag("gone", bundle="dags-folder", is_stale=True)
    found = {dag_id: foreign_bundle(session, dag_id) for dag_id in ("ours", "theirs", "gone", "unknown")}
    assert found == {"ours": None, "theirs": "dags-folder", "gone": None, "unknown": None}


def test_the_latest_heartbeat_of_each_process_that_runs_counts(session, rows):
    rows.job("SchedulerJob", NOON)
    rows.job("SchedulerJob", NOON + timedelta(seconds=5))
    rows.job("TriggererJob", NOON, state="success")
    rows.job("DagProcessorJob", None)
    rows.job("LocalTaskJob", NOON)
    assert read_heartbeats(session) == {"scheduler": NOON + timedelta(seconds=5)}


def test_a_run_is_read_with_its_steps_outputs_and_journals(session, rows):
    run = rows.run(DAG, RUN, "success", end_date=NOON + timedelta(minutes=1))
    rows.task(DAG, RUN, "extract", "success", end_date=NOON)
    rows.task(DAG, RUN, "transform", None, start_date=None)
    rows.task(DAG, RUN, "transform", "failed", map_index=3)
    rows.output(run, DAG, RUN, "extract", value={"rows": [1, "é"]})
    rows.journal(run, DAG, RUN, "extract", try_number=2, error="second")
    rows.journal(run, DAG, RUN, "extract", try_number=1, error="first")
    rows.xcom(run, DAG, RUN, "extract", "somebody's own", 1)
    rows.output(run, DAG, RUN, "transform", value="of a mapped task", map_index=3)
    rows.xcom(run, DAG, RUN, "extract", "cognitionosXjournalX0003", "a wildcard would match this")
    # A run of the same id, of another DAG.
    other = rows.run("other.v1.0.0", RUN)
    rows.task("other.v1.0.0", RUN, "extract", "failed")
    rows.output(other, "other.v1.0.0", RUN, "extract", value="not this")

    found = read_run(session, DAG, RUN)
    assert (found.state, found.start_date, found.end_date) == ("success", NOON, NOON + timedelta(minutes=1))
    assert found.start_date.tzinfo is UTC
    assert found.tasks == {"extract": TaskRow("success", NOON, NOON), "transform": TaskRow(None, None, None)}
    assert decode_output(found.outputs["extract"]) == {"rows": [1, "é"]}
    assert ['"first"' in text for text in found.journals["extract"]] == [True, False]
    assert list(found.outputs) == list(found.journals) == ["extract"]


def test_what_a_worker_kept_of_its_tries_is_read_and_garbage_there_harms_nothing(session, rows):
    where = rows.run(DAG, RUN), DAG, RUN, "a"
    texts = [journal_text(error=error) for error in ("first", "second")]
    rows.kept_by_worker(*where, "cognitionos.journal.0002", json.dumps(texts[1]))
    rows.kept_by_worker(*where, "cognitionos.journal.0001", json.dumps(texts[0]))
    rows.kept_by_worker(*where, "cognitionos.journal.0003", "no JSON")
    rows.kept_by_worker(*where, "somebody's own", '"x"')
    assert read_run(session, DAG, RUN).journals == {"a": [*texts, None]}


def test_a_run_that_is_not_there_is_none(session, rows):
    rows.run(DAG, RUN)
    assert read_run(session, DAG, "another") is None
    assert read_run(session, "another", RUN) is None
    assert has_run(session, DAG, RUN)
    assert not has_run(session, DAG, "another")
    assert not has_run(session, "another", RUN)


@pytest.mark.parametrize(
    "value", [{"__classname__": "x", "__data__": {}}, "text", "json:1", "", None, [1.5, True]]
)
@pytest.mark.parametrize("by_event", [True, False], ids=["by event", "by SetXCom"])
def test_an_output_comes_back_as_it_was_given_whichever_way_it_was_stored(session, rows, value, by_event):
    run = rows.run(DAG, RUN)
    rows.task(DAG, RUN, "a", "success")
    rows.output(run, DAG, RUN, "a", value=value, by_event=by_event)
    assert decode_output(read_run(session, DAG, RUN).outputs["a"]) == value


@pytest.mark.parametrize("steps", [1, 50])
def test_a_run_is_four_queries_whatever_the_number_of_its_steps(session, rows, steps):
    run = rows.run(DAG, RUN)
    for number in range(steps):
        rows.task(DAG, RUN, f"s{number}", "success")
        rows.output(run, DAG, RUN, f"s{number}", value=number)
        rows.journal(run, DAG, RUN, f"s{number}")
    with counted(session) as statements:
        found = read_run(session, DAG, RUN)
    assert len(statements) == 4
    assert len(found.tasks) == len(found.outputs) == len(found.journals) == steps


def test_a_database_without_time_zones_gives_utc(session, rows):
    rows.job("SchedulerJob", datetime(2026, 1, 1, 13, tzinfo=UTC) - timedelta(hours=1))
    assert read_heartbeats(session)["scheduler"].utcoffset() == timedelta(0)
