"""No request stops the others, however hard it is to serve."""

import threading
import time
from contextlib import contextmanager

import pytest
from airflow.models.revoked_token import RevokedToken
from definitions.test_rules import workflow

from api.bodies import _thinkers

PATH = "/api/v3/workflows"

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@contextmanager
def running(work):
    """Do something in a thread, and have it done at the end."""
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline


def hard_schema(number):
    properties = {f"p{number}x{index}": {"type": "string", "minLength": 1} for index in range(1000)}
    return {"type": "object", "properties": properties}


def test_a_definition_that_is_hard_to_check_stops_nobody(client):
    answers = []

    def post():
        answers.append(client.post(PATH, json=workflow(input_schema=hard_schema(1))))

    with running(post) as posting:
        until(lambda: _thinkers.borrowed_tokens)
        assert client.get(PATH).status_code == 200
        assert posting.is_alive()
    assert answers[0].status_code == 201


def test_many_hard_definitions_wait_for_each_other_and_not_for_the_database(client):
    statuses = []
    started = threading.Barrier(6)

    def post(number):
        started.wait()
        body = workflow(workflow_id=f"w{number}", input_schema=hard_schema(number))
        statuses.append(client.post(PATH, json=body).status_code)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    started.wait()
    until(lambda: _thinkers.borrowed_tokens == _thinkers.total_tokens)
    assert client.get(PATH).status_code == 200
    assert len(statuses) < 5
    for thread in threads:
        thread.join(60)
    assert statuses == [201] * 5


def test_a_token_whose_check_hangs_in_the_database_stops_nobody(client, monkeypatch):
    release, asked = threading.Event(), threading.Event()

    def is_revoked(jti):
        asked.set()
        return not release.wait(30)

    monkeypatch.setattr(RevokedToken, "is_revoked", is_revoked)
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    from api.deps import _auth_manager

    token = _auth_manager().generate_jwt(SimpleAuthManagerUser(username="ann", role="ADMIN"))
    answers = []

    def read():
        answers.append(client.get(PATH, headers={"Authorization": f"Bearer {token}"}))

    with running(read):
        assert asked.wait(10)
        assert client.get("/health").status_code == 503
        assert client.get(PATH).status_code == 200
        release.set()
    assert answers[0].status_code == 200


def test_one_who_waits_for_a_dag_holds_no_thread(start, rows):
    client = start(API_EXECUTE_WAIT_SECONDS="30")
    client.post(PATH, json=workflow()).raise_for_status()
    statuses = []

    def execute():
        statuses.append(client.post(f"{PATH}/execute", json={"workflow_id": "data-pipeline"}).status_code)

    # More than there are threads for requests.
    threads = [threading.Thread(target=execute) for _ in range(60)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert client.get(PATH).status_code == 200
    assert statuses == []
    rows.dag("data-pipeline.v1.0.0")
    for thread in threads:
        thread.join(60)
    assert statuses == [202] * 60
