"""The facade on Airflow's real tables: in the SQLite database of this test run, and in a PostgreSQL."""

import io
import json
import logging
import warnings
from contextlib import ExitStack

import pytest
import structlog
from airflow_rows import AirflowRows
from airflow_stand_in import AirflowStandIn
from fastapi.testclient import TestClient
from services import postgres_url
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from api.deps import session_factory
from api.main import create_app
from cognitionos_provider.config import get_config
from cognitionos_provider.observability import configure_logging


@pytest.fixture(scope="session")
def urls(request):
    """Give the URL of a migrated database by its kind, each made when it is first asked for."""
    made = {}
    with ExitStack() as stack:

        def url(kind):
            if kind == "sqlite":
                return request.getfixturevalue("airflow_sqlite")
            if kind not in made:
                made[kind] = stack.enter_context(postgres_url())
                _make_tables(made[kind])
            return made[kind]

        yield url


def _make_tables(url):
    from airflow.models import import_all_models
    from airflow.models.base import metadata as airflow

    from cognitionos_provider.store.tables import metadata as ours

    import_all_models()
    engine = create_engine(url)
    airflow.create_all(engine)
    ours.create_all(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, urls, monkeypatch):
    """The URL of an empty metadata database, which is the one that Airflow's settings name."""
    url = urls(request.param)
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    session_factory.cache_clear()
    yield url
    session_factory().kw["bind"].dispose()
    session_factory.cache_clear()


@pytest.fixture
def rows(database):
    engine = create_engine(database)
    rows = AirflowRows(engine)
    rows.clear()
    yield rows
    engine.dispose()


@pytest.fixture
def session(rows):
    with Session(rows.engine) as session:
        yield session


@pytest.fixture
def airflow():
    with AirflowStandIn() as server:
        yield server


@pytest.fixture
def settings(monkeypatch):
    """Set variables of the facade's environment."""

    def settings(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        get_config.cache_clear()

    yield settings
    monkeypatch.undo()
    get_config.cache_clear()


@pytest.fixture(autouse=True)
def _restored_logging():
    """Give back the process's logging, which the facade takes over, as it was found."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    named = {
        name: item.propagate
        for name, item in root.manager.loggerDict.items()
        if isinstance(item, logging.Logger)
    }
    settings, showwarning = structlog.get_config(), warnings.showwarning
    yield
    logging.captureWarnings(False)
    warnings.showwarning = showwarning
    structlog.configure(**settings)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, propagate in named.items():
        logging.getLogger(name).propagate = propagate


@pytest.fixture
def start(rows, airflow, settings):
    """Start the facade as its command would, with these variables set; gives a client."""
    with ExitStack() as stack:

        def start(**variables):
            settings(**{"API_AIRFLOW_URL": airflow.url, "API_EXECUTE_WAIT_SECONDS": "0", **variables})
            return stack.enter_context(TestClient(create_app(), raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(start):
    return start()


@pytest.fixture
def lines(client):
    """What the facade has logged so far, line by line."""
    stream = io.StringIO()
    configure_logging(get_config(), stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def post(client):
    """Post a workflow, and let Airflow know its DAG unless told otherwise."""

    def post(body, rows=None):
        answer = client.post("/api/v3/workflows", json=body)
        assert answer.status_code == 201, answer.text
        if rows is not None:
            rows.dag(answer.json()["dag_id"])
        return answer.json()

    return post


@pytest.fixture
def problem():
    """Check that an answer is a problem document, and return it."""

    def problem(answer, status):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert set(body) == {"type", "title", "status", "detail", "trace_id"} | (
            {"errors"} if status == 422 else set()
        )
        assert body["type"] == "about:blank"
        assert body["status"] == status
        assert body["title"]
        assert body["detail"]
        assert body["trace_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
        for error in body.get("errors", []):
            assert set(error) == {"loc", "msg"}
        return body

    return problem
