"""Health: what works, what does not, and an answer within two seconds whatever hangs."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from services import redis_url
from sqlalchemy import text

from api.deps import session_factory
from cognitionos_provider.config import get_config

PROCESSES = {"SchedulerJob": "scheduler", "TriggererJob": "triggerer", "DagProcessorJob": "dag_processor"}

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def alive(rows):
    for job in PROCESSES:
        rows.job(job, datetime.now(UTC))


@pytest.fixture
def closed_port():
    """A port that refuses connections, for as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


def asked(client):
    started = time.monotonic()
    answer = client.get("/health")
    assert time.monotonic() - started < 2
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


def test_all_is_well(client, alive):
    status, body = asked(client)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("timestamp"))
    assert (status, body) == (
        200,
        {
            "status": "healthy",
            "version": "3.0.0",
            "database": "healthy",
            "redis": "not_configured",
            "rabbitmq": "not_configured",
            "airflow": dict.fromkeys(["scheduler", "triggerer", "dag_processor", "api_server"], "healthy"),
        },
    )


THRESHOLDS = {"SchedulerJob": 30, "TriggererJob": 30, "DagProcessorJob": 30}


@pytest.mark.parametrize("job", list(PROCESSES))
def test_a_process_without_a_sign_of_life_for_airflows_threshold_is_unhealthy(client, rows, job):
    now = datetime.now(UTC)
    for name in PROCESSES:
        rows.job(name, now - timedelta(seconds=THRESHOLDS[name] + (1 if name == job else -20)))
    status, body = asked(client)
    parts = {name for name, state in body["airflow"].items() if state == "unhealthy"}
    assert parts == {PROCESSES[job]}
    # Without a scheduler nothing runs; without the others, some things still do.
    assert (status, body["status"]) == ((503, "unhealthy") if job == "SchedulerJob" else (200, "degraded"))


@on_sqlite
def test_a_process_that_has_stopped_or_never_ran_is_unhealthy(client, rows):
    rows.job("SchedulerJob", datetime.now(UTC), state="success")
    status, body = asked(client)
    assert (status, body["airflow"]["scheduler"], body["airflow"]["triggerer"]) == (
        503,
        "unhealthy",
        "unhealthy",
    )
    assert body["database"] == "healthy"


@on_sqlite
@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_without_airflows_api_server_it_is_unhealthy(start, alive, request, port):
    client = start(API_AIRFLOW_URL=f"http://127.0.0.1:{request.getfixturevalue(port)}")
    status, body = asked(client)
    assert (status, body["status"], body["airflow"]["api_server"]) == (503, "unhealthy", "unhealthy")
    assert (body["database"], body["airflow"]["scheduler"]) == ("healthy", "healthy")


@on_sqlite
@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_a_database_that_is_down_is_503_everywhere_and_its_address_nowhere(
    start, airflow, monkeypatch, request, problem, port
):
    secret = f"postgresql://admin:hunter2@127.0.0.1:{request.getfixturevalue(port)}/airflow"
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", secret)
    session_factory.cache_clear()
    client = start()
    status, body = asked(client)
    assert (status, body["database"]) == (503, "unhealthy")
    assert set(body["airflow"].values()) == {"unhealthy", "healthy"}
    assert body["airflow"]["api_server"] == "healthy"
    answer = client.get("/api/v3/workflows")
    found = problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    assert "The database does not answer" in found["detail"]
    for word in ("hunter2", "admin", "127.0.0.1", "psycopg"):
        assert word not in answer.text


@on_postgresql
def test_a_database_that_hangs_takes_one_thread_however_often_it_is_asked(client, alive, rows):
    factory = session_factory()
    with rows.engine.begin() as blocker:
        blocker.execute(text("LOCK TABLE job IN ACCESS EXCLUSIVE MODE"))
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: asked(client), range(10)))
        assert {(status, body["database"]) for status, body in answers} == {(503, "unhealthy")}
        assert factory.kw["bind"].pool.checkedout() == 1
    # The question that hung is answered now, and the next one is asked anew.
    deadline = time.monotonic() + 10
    while factory.kw["bind"].pool.checkedout():
        assert time.monotonic() < deadline
    assert asked(client)[0] == 200


def test_tables_of_another_release_are_503_and_say_what_to_do(
    start, rows, monkeypatch, tmp_path, problem, urls
):
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/empty.db")
    if rows.engine.dialect.name == "postgresql":
        empty = rows.engine.url.update_query_dict({"options": "-csearch_path=nowhere"})
        monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", empty.render_as_string(hide_password=False))
    session_factory.cache_clear()
    client = start()
    assert "airflow db migrate" in problem(client.get("/api/v3/workflows"), 503)["detail"]
    assert asked(client)[0] == 503


def test_a_pool_without_a_free_connection_is_503(client, problem):
    pool = session_factory().kw["bind"].pool
    pool._timeout = 0.05
    taken = [pool.connect() for _ in range(pool.size() + pool._max_overflow)]
    problem(client.get("/api/v3/workflows"), 503)
    for connection in taken:
        connection.close()
    assert client.get("/api/v3/workflows").status_code == 200


@on_sqlite
def test_redis_that_is_configured_is_asked(start, alive):
    with redis_url() as url:
        parts = urlsplit(url)
        variables = {"REDIS_HOST": parts.hostname, "REDIS_PORT": str(parts.port), "REDIS_DB": parts.path[1:]}
        assert asked(start(**variables))[1]["redis"] == "healthy"


def amqp_answers():
    """Whether a broker at RabbitMQ's own port speaks AMQP 0-9-1, told without what is tested here."""
    try:
        with socket.create_connection(("127.0.0.1", 5672), timeout=2) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


@on_sqlite
def test_rabbitmq_that_is_configured_is_asked(start, alive):
    _, body = asked(start(RABBITMQ_HOST="127.0.0.1"))
    assert body["rabbitmq"] == ("healthy" if amqp_answers() else "unhealthy")
    assert body["status"] == ("healthy" if amqp_answers() else "degraded")


@on_sqlite
@pytest.mark.parametrize("server", ["redis", "rabbitmq"])
@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_a_server_that_does_not_answer_degrades_and_hangs_nothing(start, alive, request, server, port):
    name = server.upper()
    client = start(**{f"{name}_PORT": str(request.getfixturevalue(port)), f"{name}_HOST": "127.0.0.1"})
    for _ in range(2):
        status, body = asked(client)
        assert (status, body["status"], body[server]) == (200, "degraded", "unhealthy")


@on_sqlite
def test_what_went_wrong_is_in_the_log_without_a_password(start, alive, closed_port, capsys):
    client = start(REDIS_HOST="127.0.0.1", REDIS_PORT=str(closed_port), REDIS_PASSWORD="hunter2hunter2")
    capsys.readouterr()
    asked(client)
    logged = capsys.readouterr().err
    assert get_config().redis.url is not None
    assert "hunter2" not in logged
