"""Who may do what: Airflow's auth manager decides, with Airflow's tokens."""

import time

import jwt
import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.revoked_token import RevokedToken
from definitions.test_rules import workflow

from api.deps import _anonymous_admin, _auth_manager

PATH = "/api/v3/workflows"
DAG = "data-pipeline.v1.0.0"

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

OPEN = {"/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


@pytest.fixture
def locked(monkeypatch, start):
    """A facade whose callers need a token."""
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
    _auth_manager.cache_clear()
    yield start()
    _auth_manager.cache_clear()


@pytest.fixture
def token(locked):
    def token(role, name="somebody", seconds=60):
        user = SimpleAuthManagerUser(username=name, role=role)
        made = _auth_manager().generate_jwt(user, expiration_time_in_seconds=seconds)
        return {"Authorization": f"Bearer {made}"}

    return token


def paths(client):
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            yield method.upper(), path.replace("{", "").replace("}", "")


def test_every_route_but_health_and_the_documentation_needs_a_token(locked, problem):
    asked = []
    for method, path in paths(locked):
        if path in OPEN:
            continue
        asked.append(path)
        answer = locked.request(method, path, json={} if method == "POST" else None)
        assert "A token is needed" in problem(answer, 401)["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert len(asked) == 5


def test_every_route_that_the_documentation_leaves_out_is_one_of_its_pages(locked):
    hidden = {route.path for route in locked.app.routes if not getattr(route, "include_in_schema", True)}
    assert hidden <= OPEN
    assert [locked.get(path).status_code for path in sorted(hidden)] == [200] * len(hidden)


def test_health_and_the_documentation_need_no_token(locked):
    assert locked.get("/health").json()["version"] == "3.0.0"
    assert locked.get("/openapi.json").status_code == 200


def hour_old():
    manager = _auth_manager()
    user = SimpleAuthManagerUser(username="late", role="ADMIN")
    claims = jwt.decode(manager.generate_jwt(user), options={"verify_signature": False})
    return jwt.encode(claims | {"exp": time.time() - 3600}, "x" * 64, "HS512"), claims


def test_a_token_that_does_not_hold_is_401(locked, token, problem):
    good = token("ADMIN")["Authorization"].removeprefix("Bearer ")
    head, body, signature = good.split(".")
    forged, claims = hour_old()
    texts = ["x", "a.b.c", "é", f"{head}.{body}.", f"{head}.{body}.{signature[::-1]}", forged, "a" * 10_000]
    texts.append(jwt.encode(claims, "", algorithm="none"))
    expired = token("ADMIN", seconds=-3600)["Authorization"].removeprefix("Bearer ")
    for text in [*texts, expired]:
        answer = locked.get(PATH, headers={"Authorization": f"Bearer {text}".encode()})
        assert "not valid, or has expired" in problem(answer, 401)["detail"], text
        assert answer.headers["www-authenticate"] == "Bearer"
    for scheme in ("Basic dXNlcjpwYXNz", good, "Bearer", "Bearer "):
        problem(locked.get(PATH, headers={"Authorization": scheme}), 401)


def test_a_token_without_a_role_is_401(locked, token, problem):
    signer = _auth_manager()._get_token_signer(expiration_time_in_seconds=60)
    answer = locked.get(PATH, headers={"Authorization": f"Bearer {signer.generate({'sub': 'x'})}"})
    problem(answer, 401)


def test_a_token_that_was_revoked_is_401(locked, token, rows, problem):
    headers = token("ADMIN")
    assert locked.get(PATH, headers=headers).status_code == 200
    claims = jwt.decode(headers["Authorization"].removeprefix("Bearer "), options={"verify_signature": False})
    RevokedToken.revoke(claims["jti"], _at(claims["exp"]))
    problem(locked.get(PATH, headers=headers), 401)


def _at(seconds):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)


MATRIX = [
    # role, POST workflows, GET workflows, execute, GET execution
    ("VIEWER", 403, 200, 403, 200),
    ("USER", 403, 200, 202, 200),
    ("OP", 201, 200, 202, 200),
    ("ADMIN", 201, 200, 202, 200),
]


@pytest.mark.parametrize(
    ("role", "author", "read", "execute", "watch"), MATRIX, ids=[row[0] for row in MATRIX]
)
def test_each_role_may_do_what_airflow_lets_it(
    locked, token, rows, airflow, problem, role, author, read, execute, watch
):
    locked.post(PATH, json=workflow(), headers=token("ADMIN")).raise_for_status()
    rows.dag(DAG)
    run = {"workflow_id": "data-pipeline"}
    started = locked.post(f"{PATH}/execute", json=run, headers=token("ADMIN")).headers["location"]
    headers = token(role, name="ann")
    answers = [
        (locked.post(PATH, json=workflow(workflow_id="new"), headers=headers), author),
        (locked.get(f"{PATH}/data-pipeline/1.0.0", headers=headers), read),
        (locked.get(PATH, headers=headers), read),
        (locked.post(f"{PATH}/execute", json=run, headers=headers), execute),
        (locked.get(started, headers=headers), watch),
    ]
    for answer, status in answers:
        assert answer.status_code == status, answer.text
        if status == 403:
            assert problem(answer, 403)["detail"].startswith("ann may not")
    if execute == 202:
        # Airflow is asked in the caller's name.
        assert airflow.seen[-1]["headers"]["Authorization"] == headers["Authorization"]
        assert answers[3][0].json()["user_id"] == "ann"


def test_one_who_may_not_author_learns_nothing_of_what_is_wrong_with_a_body(locked, token, problem):
    problem(locked.post(PATH, json={}, headers=token("USER")), 403)


def test_one_who_may_not_start_learns_nothing_of_the_inputs(locked, token, rows, problem):
    schema = {"type": "object", "required": ["secret_name"]}
    locked.post(PATH, json=workflow(input_schema=schema), headers=token("ADMIN")).raise_for_status()
    answer = locked.post(f"{PATH}/execute", json={"workflow_id": "data-pipeline"}, headers=token("VIEWER"))
    assert "secret_name" not in problem(answer, 403)["detail"]


def test_drafts_are_for_authors(locked, token, problem):
    locked.post(PATH, json=workflow(status="draft"), headers=token("OP")).raise_for_status()
    for role, seen in (("USER", 0), ("OP", 1)):
        answer = locked.get(f"{PATH}/data-pipeline/1.0.0", headers=token(role))
        assert answer.status_code == (200 if seen else 403)
        for query in ("", "?status=draft", "?q=data"):
            page = locked.get(PATH + query, headers=token(role)).json()
            assert (len(page["workflows"]), page["total"]) == (seen, seen)


def test_without_authentication_everybody_is_the_anonymous_admin_with_a_token_for_airflow(
    client, rows, airflow
):
    created = client.post(PATH, json=workflow()).json()
    rows.dag(DAG)
    client.post(f"{PATH}/execute", json={"workflow_id": "data-pipeline"}).raise_for_status()
    assert created["created_by"] == "Anonymous"
    bearer = airflow.seen[0]["headers"]["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(bearer, options={"verify_signature": False})
    assert (claims["sub"], claims["role"]) == ("Anonymous", "ADMIN")
    assert claims["exp"] - claims["iat"] == 3600


def test_the_anonymous_admins_token_is_made_anew_before_it_expires(client, monkeypatch):
    first = _anonymous_admin.get()
    assert _anonymous_admin.get() is first
    later = time.monotonic() + 1801
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert _anonymous_admin.get() is not first


def test_no_token_is_in_a_repr(client):
    assert _anonymous_admin.get().token not in repr(_anonymous_admin.get())


def test_a_wrong_token_is_401_also_where_none_is_needed(client, problem):
    problem(client.get(PATH, headers={"Authorization": "Bearer x"}), 401)


def test_what_airflow_does_not_let_a_caller_read_or_start_is_403_and_in_no_list(
    client, rows, airflow, problem, monkeypatch
):
    for name in ("mine", "theirs"):
        client.post(PATH, json=workflow(workflow_id=name)).raise_for_status()
        rows.dag(f"{name}.v1.0.0")
    started = client.post(f"{PATH}/execute", json={"workflow_id": "theirs"}).headers["location"]
    # The simple auth manager lets everybody read everything; others decide by DAG.
    asked = []

    def decide(*, method, user, access_entity, details):
        asked.append((method, access_entity.value))
        return details.id == "mine.v1.0.0"

    monkeypatch.setattr(_auth_manager(), "is_authorized_dag", decide)
    for answer in (
        client.get(f"{PATH}/theirs/1.0.0"),
        client.get(started),
        client.post(f"{PATH}/execute", json={"workflow_id": "theirs"}),
    ):
        assert "may not" in problem(answer, 403)["detail"]
    assert [item["workflow_id"] for item in client.get(PATH).json()["workflows"]] == ["mine"]
    assert client.post(f"{PATH}/execute", json={"workflow_id": "mine"}).status_code == 202
    assert set(asked) == {("GET", "RUN"), ("POST", "RUN")}


def test_authoring_takes_the_right_to_change_variables_not_the_one_to_read_them(client, problem, monkeypatch):
    def decide(*, method, user, details):
        return method == "GET"

    monkeypatch.setattr(_auth_manager(), "is_authorized_variable", decide)
    assert "edit variables" in problem(client.post(PATH, json=workflow()), 403)["detail"]
