"""Trace ids, errors nobody expected, compression, other origins."""

import asyncio
import re

import pytest
from definitions.test_rules import workflow
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.deps import session_factory
from api.middleware import BodyLimitMiddleware, ErrorMiddleware, TraceMiddleware

PATH = "/api/v3/workflows"

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_callers_id_is_in_the_answer_the_problem_and_each_line_of_the_log(client, lines):
    answer = client.post(PATH, json=workflow(), headers={"X-Request-ID": "req-abc:123"})
    assert answer.headers["x-request-id"] == "req-abc:123"
    assert client.get(f"{PATH}/x/y", headers={"X-Request-ID": "req-2"}).json()["trace_id"] == "req-2"
    ours = [line for line in lines() if not line["message"].startswith("HTTP Request")]
    assert [(line["trace_id"], line["message"]) for line in ours] == [
        ("req-abc:123", "Workflow created"),
        ("req-abc:123", f"POST {PATH} -> 201"),
        ("req-2", f"GET {PATH}/x/y -> 404"),
    ]
    assert (ours[1]["method"], ours[1]["path"], ours[1]["status"]) == ("POST", PATH, 201)
    assert ours[1]["duration_ms"] > 0


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"traceparent": PARENT}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": PARENT, "X-Request-ID": "mine"}, "mine"),
        ({"traceparent": PARENT, "X-Request-ID": "not fit"}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"X-Request-ID": "a" * 128}, "a" * 128),
    ],
)
def test_the_trace_id_comes_from_the_caller(client, headers, trace_id):
    assert client.get("/openapi.json", headers=headers).headers["x-request-id"] == trace_id


UNFIT = {
    "nothing": {},
    "empty": {"X-Request-ID": ""},
    "too long": {"X-Request-ID": "a" * 129},
    "spaces": {"X-Request-ID": "a b"},
    "markup": {"X-Request-ID": "<script>"},
    "other letters": {"X-Request-ID": "é".encode()},
    "a trace id of zeros": {"traceparent": PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)},
    "a parent of zeros": {"traceparent": PARENT.replace("00f067aa0ba902b7", "0" * 16)},
    "version ff": {"traceparent": "ff" + PARENT[2:]},
    "capitals": {"traceparent": PARENT.upper()},
}


@pytest.mark.parametrize("headers", UNFIT.values(), ids=list(UNFIT))
def test_without_a_fit_id_one_is_made(client, headers):
    made = {client.get("/openapi.json", headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id in made)


def test_an_error_nobody_expected_is_a_problem_without_a_word_of_it_and_a_line_in_the_log(
    client, lines, post, problem
):
    post(workflow())
    with session_factory().begin() as session:
        session.execute(text("UPDATE cognitionos_workflow SET definition = '{\"secret\": 1}'"))
    answer = client.get(f"{PATH}/data-pipeline/1.0.0", headers={"X-Request-ID": "req-9"})
    found = problem(answer, 500)
    assert (found["title"], found["trace_id"]) == ("Internal Server Error", "req-9")
    assert "secret" not in answer.text
    [line] = [line for line in lines() if line["level"] == "ERROR"]
    assert (line["message"], line["trace_id"]) == ("The request failed", "req-9")
    assert "ValidationError" in line["exception"]


def test_an_error_in_the_middle_of_an_answer_ends_the_connection(rows):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        TestClient(ErrorMiddleware(app)).get("/")


def test_what_is_no_request_passes_untouched(rows):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])
        if scope["type"] == "websocket":
            raise RuntimeError("as it was")

    for middleware in (TraceMiddleware(app), BodyLimitMiddleware(app, 1), ErrorMiddleware(app)):
        asyncio.run(middleware({"type": "lifespan"}, None, None))
        with pytest.raises(RuntimeError, match="as it was"):
            asyncio.run(middleware({"type": "websocket"}, None, None))
    assert seen == ["lifespan", "websocket"] * 3


def test_an_error_while_a_small_body_is_read_is_not_hidden(rows):
    async def app(scope, receive, send):
        await receive()
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        TestClient(BodyLimitMiddleware(app, 10)).post("/", content=b"x")


def test_a_route_that_breaks_over_a_cut_body_answers_413_all_the_same(rows):
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        raise RuntimeError("the client has gone")

    answer = TestClient(BodyLimitMiddleware(app, 10)).post("/", content=iter([b"x" * 8] * 3))
    assert answer.status_code == 413


def test_an_answer_that_has_begun_is_not_cut_by_a_late_body(rows):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await send({"type": "http.response.body", "body": b"whole"})

    assert TestClient(BodyLimitMiddleware(app, 10)).post("/", content=iter([b"x" * 80])).text == "whole"


@pytest.mark.parametrize("length", ["x", "-1", "²", "9" * 5000])
def test_a_length_that_is_no_number_is_the_servers_to_refuse(rows, length):
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, limit=10)
    headers = {"content-length": length.encode()}
    assert TestClient(app).get("/openapi.json", headers=headers).status_code == 200


def test_large_answers_are_compressed_for_those_who_ask(client):
    assert (
        client.get("/openapi.json", headers={"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"
    )
    plain = client.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_origins_that_are_named_may_read_answers_and_errors(start):
    client = start(API_CORS_ORIGINS="http://localhost:3000,http://localhost:8000")
    for path in (PATH, f"{PATH}/x/y"):
        answer = client.get(path, headers={"Origin": "http://localhost:8000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:8000"
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = client.options(PATH, headers={"Origin": "http://localhost:3000", **asked})
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    refused = client.get(PATH, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_an_unexpected_error_can_be_read_by_other_origins_too(start, rows):
    client = start(API_CORS_ORIGINS="http://localhost:3000")
    client.post(PATH, json=workflow()).raise_for_status()
    with session_factory().begin() as session:
        session.execute(text("UPDATE cognitionos_workflow SET definition = '{}'"))
    answer = client.get(f"{PATH}/data-pipeline/1.0.0", headers={"Origin": "http://localhost:3000"})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_without_origins_no_other_origin_may_read(client):
    answer = client.get(PATH, headers={"Origin": "http://localhost:3000"})
    assert "access-control-allow-origin" not in answer.headers


def test_answers_do_not_name_the_server(client):
    assert not {"server", "x-powered-by"} & set(client.get(PATH).headers)
