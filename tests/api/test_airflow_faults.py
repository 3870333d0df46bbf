"""Starting a run while Airflow refuses, fails, is gone or is slow: nothing is left behind, and nothing is lost."""

import socket

import pytest
from definitions.test_rules import workflow

from api.airflow_client import AirflowClient
from cognitionos_provider.store.tables import ExecutionRow

PATH = "/api/v3/workflows"
EXECUTE = f"{PATH}/execute"
DAG = "data-pipeline.v1.0.0"


@pytest.fixture
def execute(client, post, rows):
    post(workflow(), rows)
    return lambda: client.post(EXECUTE, json={"workflow_id": "data-pipeline"})


REFUSALS = {
    "400": (400, {"detail": "Param x is wrong"}, 422, "Airflow refused the run: Param x is wrong"),
    "401": (401, {"detail": "Invalid JWT"}, 503, "[api_auth] jwt_secret"),
    "403": (
        403,
        {"detail": "Forbidden"},
        403,
        "does not let the caller start data-pipeline.v1.0.0: Forbidden",
    ),
    "404": (404, {"detail": "Dag not found"}, 409, "no DAG data-pipeline.v1.0.0 any more: Dag not found"),
    "422": (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, 422, "'msg': 'bad'"),
    "a redirect": (307, "<html>" * 1000, 503, "Airflow answered 307; no run was started"),
    "429 of a proxy": (429, "", 503, "Airflow answered 429; no run was started"),
    "half a character": (400, '{"detail": "x\\ud800"}', 422, "Airflow refused the run: x?"),
    "a list": (400, "[]", 422, "Airflow refused the run: []"),
}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("status", "body", "ours", "fragment"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_run_that_airflow_refuses_leaves_nothing_behind(
    execute, airflow, rows, problem, status, body, ours, fragment
):
    airflow.answer = (status, body)
    answer = execute()
    found = problem(answer, ours)
    assert fragment in found["detail"]
    assert found["detail"].endswith("; no run was started")
    assert len(found["detail"]) < 700
    assert ("retry-after" in answer.headers) == (ours == 503)
    assert len(airflow.seen) == 1
    assert rows.all(ExecutionRow) == []


def test_a_run_that_airflow_has_already_is_our_own(execute, airflow, rows):
    airflow.answer = (409, {"detail": "exists"})
    assert execute().status_code == 202
    assert len(rows.all(ExecutionRow)) == 1


def test_airflow_that_is_gone_is_503_and_leaves_nothing_behind(start, rows, problem):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        client = start(API_AIRFLOW_URL=f"http://127.0.0.1:{bound.getsockname()[1]}")
        client.post(PATH, json=workflow()).raise_for_status()
        rows.dag(DAG)
        answer = client.post(EXECUTE, json={"workflow_id": "data-pipeline"})
    assert "Airflow could not be reached (ConnectError); no run was started" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "2"
    assert rows.all(ExecutionRow) == []


LOST = {
    "lost": (None, "Airflow did not answer (RemoteProtocolError)"),
    "500": ((500, {"detail": "Internal Server Error"}), "Airflow answered 500"),
    "502 of a proxy": ((502, "<html>" * 1000), "Airflow answered 502"),
    "503": ((503, ""), "Airflow answered 503"),
    "504 of a proxy": ((504, ""), "Airflow answered 504"),
    "599": ((599, ""), "Airflow answered 599"),
}


@pytest.mark.parametrize(("answer", "told"), LOST.values(), ids=list(LOST))
def test_an_execution_whose_start_is_uncertain_is_kept_for_the_run_that_may_come(
    client, execute, airflow, rows, problem, answer, told
):
    airflow.answer = answer
    detail = problem(execute(), 503)["detail"]
    first, second = airflow.seen
    assert first["body"] == second["body"]
    [row] = rows.all(ExecutionRow)
    assert row["dag_run_id"] == first["body"]["dag_run_id"]
    place = f"{PATH}/executions/{row['execution_id']}"
    assert detail == (f"{told}; a run may or may not have started: look at {place} before you start another")
    # Airflow, which was slower than its proxy, commits the run after all.
    rows.run(DAG, row["dag_run_id"])
    assert client.get(place).json()["status"] == "running"


@pytest.mark.parametrize("first", [None, (504, "")], ids=["lost", "504"])
@pytest.mark.parametrize("status", [200, 409])
def test_an_uncertain_start_is_made_certain_by_asking_once_more(execute, airflow, rows, first, status):
    answers = iter([first, (status, {})])
    airflow.answer = lambda body: next(answers)
    assert execute().status_code == 202
    one, two = airflow.seen
    assert one["body"] == two["body"]
    assert len(rows.all(ExecutionRow)) == 1


@pytest.mark.parametrize("first", [None, (502, "")], ids=["lost", "502"])
@pytest.mark.parametrize(
    ("second", "ours"), [((403, {"detail": "x"}), 403), ((404, ""), 409), ((401, ""), 503), ((307, ""), 503)]
)
def test_a_refusal_says_nothing_of_the_request_before_it(
    execute, airflow, rows, problem, first, second, ours
):
    answers = iter([first, second])
    airflow.answer = lambda body: next(answers)
    detail = problem(execute(), ours)["detail"]
    assert "a run may or may not have started" in detail
    assert "no run was started" not in detail
    assert len(rows.all(ExecutionRow)) == 1


@pytest.mark.parametrize(
    "answer", [None, (500, "after the commit"), (504, "of a proxy")], ids=["lost", "500", "504"]
)
def test_a_run_that_airflow_made_all_the_same_is_an_execution(client, execute, airflow, rows, answer):
    made = set()

    def make_the_run_and_fail(body):
        if body["dag_run_id"] not in made:
            rows.run(DAG, body["dag_run_id"])
        made.add(body["dag_run_id"])
        return answer

    airflow.answer = make_the_run_and_fail
    started = execute()
    assert started.status_code == 202
    assert client.get(started.headers["location"]).json()["status"] == "running"


def test_airflow_that_is_too_slow_is_503_and_its_run_finds_its_execution(
    client, execute, airflow, rows, problem
):
    client.app.state.airflow = AirflowClient(airflow.url, timeout=0.2)
    airflow.release.clear()
    assert "ReadTimeout" in problem(execute(), 503)["detail"]
    # A timeout is no reason to ask again at once: Airflow has enough to do.
    assert len(airflow.seen) == 1
    airflow.release.set()
    [row] = rows.all(ExecutionRow)
    rows.run(DAG, row["dag_run_id"])
    shown = client.get(f"{PATH}/executions/{row['execution_id']}").json()
    assert shown["status"] == "running"
