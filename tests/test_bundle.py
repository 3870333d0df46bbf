"""The bundle writes what the database holds, and nothing that has not changed."""

from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from cognitionos_provider.bundle import WorkflowBundle
from cognitionos_provider.definitions import Workflow
from cognitionos_provider.store.tables import metadata
from cognitionos_provider.store.workflows import add_workflow, get_workflow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/store.db")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session


@pytest.fixture
def make_bundle(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))

    @contextmanager
    def opened():
        with Session(engine) as session:
            yield session

    def make():
        bundle = WorkflowBundle(name="cognitionos", session_factory=opened)
        bundle.initialize()
        return bundle

    return make


def post(session, workflow_id="w", version="1.0.0", **fields):
    body = {
        "workflow_id": workflow_id,
        "version": version,
        "name": "W",
        "schedule": "@daily",
        "steps": [{"step_id": "a"}],
        **fields,
    }
    add_workflow(session, Workflow.model_validate(body), created_by=None, now=NOW)
    session.commit()


def files(bundle):
    return {path.name: path.stat().st_mtime_ns for path in bundle.path.iterdir()}


def test_each_active_version_is_one_file(session, make_bundle):
    post(session)
    post(session, "v", "2.0.0")
    post(session, "draft", status="draft")
    bundle = make_bundle()
    bundle.refresh()
    assert set(files(bundle)) == {"w.v1.0.0.py", "v.v2.0.0.py"}
    assert "dag_from_json" in (bundle.path / "w.v1.0.0.py").read_text()


def test_a_refresh_writes_only_what_changed(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    before = files(bundle)
    post(session, "v")
    bundle.refresh()
    assert files(bundle)["w.v1.0.0.py"] == before["w.v1.0.0.py"]
    again = files(bundle)
    make_bundle().refresh()
    assert files(bundle) == again


def test_a_refresh_without_a_change_is_one_query(session, make_bundle, engine):
    for number in range(20):
        post(session, f"w{number}")
    bundle = make_bundle()
    bundle.refresh()
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    bundle.refresh()
    assert len(statements) == 1
    assert "definition" not in statements[0]


def test_a_higher_version_takes_the_schedule_from_the_one_before(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    assert "scheduled=True" in (bundle.path / "w.v1.0.0.py").read_text()
    post(session, version="1.1.0")
    bundle.refresh()
    assert "scheduled=False" in (bundle.path / "w.v1.0.0.py").read_text()
    assert "scheduled=True" in (bundle.path / "w.v1.1.0.py").read_text()


def test_an_archived_version_loses_its_file(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    get_workflow(session, "w", "1.0.0").status = "archived"
    session.commit()
    bundle.refresh()
    assert files(bundle) == {}


def test_a_file_that_somebody_changed_or_left_is_put_right_after_a_restart(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    good = (bundle.path / "w.v1.0.0.py").read_text()
    (bundle.path / "w.v1.0.0.py").write_text("half a fi")
    (bundle.path / "stranger.py").write_text("x")
    make_bundle().refresh()
    assert set(files(bundle)) == {"w.v1.0.0.py"}
    assert (bundle.path / "w.v1.0.0.py").read_text() == good


def test_initialize_needs_no_database(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path))

    def no_database():
        raise AssertionError("a worker has no access to the database")

    bundle = WorkflowBundle(name="cognitionos", session_factory=no_database)
    bundle.initialize()
    assert bundle.path.is_dir()
    assert bundle.get_current_version() is None


def test_a_file_that_was_removed_is_written_again(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    (bundle.path / "w.v1.0.0.py").unlink()
    bundle.refresh()
    assert set(files(bundle)) == {"w.v1.0.0.py"}


def test_a_schedule_does_not_reach_back_behind_the_versions_activation(session, make_bundle):
    post(session)
    bundle = make_bundle()
    bundle.refresh()
    assert f'start_date="{NOW.isoformat()}"' in (bundle.path / "w.v1.0.0.py").read_text()
