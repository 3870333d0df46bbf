"""How the facade starts: where it listens, which database it takes, and what it says when it can't."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from api.__main__ import host_to_listen_on, main
from api.deps import _auth_manager, session_factory
from cognitionos_provider.exceptions import ConfigurationError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def airflow_at(monkeypatch):
    """Say that Airflow's metadata database is at a URL."""

    def airflow_at(url):
        monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
        session_factory.cache_clear()

    yield airflow_at
    session_factory.cache_clear()


@pytest.fixture
def authentication(monkeypatch):
    def authentication(is_on):
        monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", str(not is_on))
        _auth_manager.cache_clear()

    yield authentication
    _auth_manager.cache_clear()


@pytest.mark.parametrize(
    ("is_on", "variables", "host"),
    [
        (False, {}, "127.0.0.1"),
        (False, {"API_HOST": "192.0.2.1"}, "127.0.0.1"),
        (False, {"API_HOST": "192.0.2.1", "SECURITY_ALLOW_REMOTE_WITHOUT_AUTH": "true"}, "192.0.2.1"),
        (True, {"API_HOST": "192.0.2.1"}, "192.0.2.1"),
        (True, {}, "0.0.0.0"),
    ],
)
def test_without_authentication_only_this_machine_is_served(authentication, settings, is_on, variables, host):
    authentication(is_on)
    settings(**variables)
    assert host_to_listen_on() == host


def test_unset_database_variables_mean_airflows_database(airflow_at, settings, tmp_path):
    airflow_at(f"sqlite:///{tmp_path}/airflow.db")
    settings()
    assert str(session_factory().kw["bind"].url) == f"sqlite:///{tmp_path}/airflow.db"


SAME = [
    (
        "postgresql+psycopg2://a:b@localhost:5432/af",
        {"DB_HOST": "localhost", "DB_PORT": "5432", "DB_NAME": "af"},
    ),
    ("postgresql://a:b@127.0.0.1/af", {"DB_HOST": "localhost", "DB_NAME": "af", "DB_USER": "other"}),
    ("postgresql://a:b@db.example/af", {"DB_HOST": "db.example", "DB_NAME": "af", "DB_PASSWORD": "hunter2"}),
    ("postgresql:///af", {"DB_NAME": "af"}),
]


@pytest.mark.parametrize(("url", "variables"), SAME)
def test_the_same_database_said_twice_is_taken(airflow_at, settings, url, variables):
    airflow_at(url)
    settings(**variables)
    assert str(session_factory().kw["bind"].url.database) == "af"


OTHER = [
    ("postgresql://a:hunter1@localhost/af", {"DB_NAME": "cognitionos"}, "'cognitionos' at localhost:5432"),
    (
        "postgresql://a:hunter1@localhost/af",
        {"DB_HOST": "db.example", "DB_NAME": "af"},
        "'af' at db.example:5432",
    ),
    ("postgresql://a:hunter1@localhost/af", {"DB_PORT": "5433", "DB_NAME": "af"}, "'af' at localhost:5433"),
    ("postgresql://a:hunter1@/af?host=/run/pg", {"DB_NAME": "af"}, "the postgresql database 'af'"),
    ("sqlite:////tmp/af.db", {"DB_HOST": "localhost"}, "the sqlite database '/tmp/af.db'"),
]


@pytest.mark.parametrize(("url", "variables", "fragment"), OTHER)
def test_another_database_than_airflows_is_refused_without_a_password_in_the_message(
    airflow_at, settings, url, variables, fragment
):
    airflow_at(url)
    settings(**variables, DB_PASSWORD="hunter2")
    with pytest.raises(ConfigurationError) as caught:
        session_factory()
    message = str(caught.value)
    assert fragment in message
    assert "unset DB_*, or set it to that" in message
    assert "hunter" not in message


@pytest.mark.parametrize(
    ("variables", "fragment"),
    [({"API_PORT": "many"}, "API_PORT"), ({"DB_HOST": "localhost"}, "DB_* names the postgresql database")],
)
def test_a_setting_that_is_wrong_is_one_clear_line_and_status_2(
    airflow_at, settings, capsys, variables, fragment
):
    airflow_at("sqlite:////tmp/af.db")
    settings(**variables)
    assert main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("The facade can't start: ")
    assert fragment in line


def facade(**variables):
    return {"args": [sys.executable, "-m", "api"], "cwd": REPOSITORY, "env": {**os.environ, **variables}}


def test_the_command_ends_with_status_2_over_a_malformed_setting():
    done = subprocess.run(**facade(API_PORT="70000"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "API_PORT" in line] == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr


def test_the_command_serves_and_ends_when_it_is_told(airflow_sqlite):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        **facade(API_PORT=str(port), API_HOST="0.0.0.0"), stderr=subprocess.PIPE, text=True
    )
    try:
        answer = _first_answer(process, f"http://127.0.0.1:{port}/api/v3/workflows")
        assert answer.status_code == 200
        assert "server" not in answer.headers
        # This machine's other addresses are as closed as they are to the world.
        with pytest.raises(OSError):  # noqa: PT011 - refused, or no route to it
            socket.create_connection(("127.0.0.2", port), timeout=5)
    finally:
        process.terminate()
        logged = process.communicate(timeout=20)[1]
    # uvicorn ends in good order and then by the signal, for whoever has sent it.
    assert process.returncode == -signal.SIGTERM
    assert "Finished server process" in logged
    assert '"message": "GET /api/v3/workflows -> 200"' in logged


def _first_answer(process, url):
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, timeout=10)
        except httpx.ConnectError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
