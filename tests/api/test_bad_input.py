"""Whatever is sent, the answer is a problem document that helps, and never a 500."""

import json

import pytest
from definitions.test_rules import ONE_FIELD, nested, step, workflow

from cognitionos_provider.store.tables import ExecutionRow, WorkflowRow

PATH = "/api/v3/workflows"
EXECUTE = f"{PATH}/execute"
JSON = {"Content-Type": "application/json"}

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def as_sent(body):
    # json.dumps quietly makes texts of other keys.
    return json.dumps(body).encode()


# What Python can hold and JSON can't (keys that are no text, a set), and what is too deep for its writer.
UNSENDABLE = {"inputs with a number as key", "inputs that are no JSON", "inputs too deep"}
SENDABLE = {name: row for name, row in ONE_FIELD.items() if name not in UNSENDABLE}


@on_sqlite
@pytest.mark.parametrize(("body", "loc", "fragment"), SENDABLE.values(), ids=list(SENDABLE))
def test_each_rule_of_the_contract_has_its_422(client, rows, problem, body, loc, fragment):
    found = problem(client.post(PATH, content=as_sent(body), headers=JSON), 422)
    assert [error["loc"] for error in found["errors"]] == [["body", *loc]]
    assert fragment in found["errors"][0]["msg"]
    assert found["detail"] == found["errors"][0]["msg"]
    assert rows.all(WorkflowRow) == []


def test_only_what_cannot_be_sent_is_left_out_of_the_rules():
    assert len(ONE_FIELD) - len(SENDABLE) == len(UNSENDABLE)


@on_sqlite
def test_inputs_of_65_levels_are_422(client, problem):
    [error] = problem(client.post(PATH, json=step(inputs=nested(65))), 422)["errors"]
    assert error == {
        "loc": ["body", "steps", 0, "inputs", *["a"] * 64],
        "msg": "The value is nested more than 64 levels deep",
    }


RUNS = {
    "no workflow": ({}, ["workflow_id"], "Field required"),
    "bad id": ({"workflow_id": "a b"}, ["workflow_id"], "'a b' is no workflow id"),
    "bad version": ({"workflow_id": "w", "workflow_version": "1"}, ["workflow_version"], "'1' is no version"),
    "version of no text": ({"workflow_id": "w", "workflow_version": 1}, ["workflow_version"], "valid string"),
    "inputs of a list": ({"workflow_id": "w", "inputs": []}, ["inputs"], "Must be a JSON object"),
    "inputs of null": ({"workflow_id": "w", "inputs": None}, ["inputs"], "Must be a JSON object"),
    "NaN": ({"workflow_id": "w", "inputs": {"x": float("nan")}}, ["inputs", "x"], "NaN and Infinity"),
    "NUL": ({"workflow_id": "w", "inputs": {"x": ["\0"]}}, ["inputs", "x", 0], "NUL"),
    "NUL in a key": ({"workflow_id": "w", "inputs": {"\0": 1}}, ["inputs"], "NUL"),
    "half a character": ({"workflow_id": "w", "inputs": {"x": "\ud800"}}, ["inputs", "x"], "surrogate"),
    "budget of nothing": ({"workflow_id": "w", "budget_usd": 0}, ["budget_usd"], "greater than 0"),
    "budget without end": ({"workflow_id": "w", "budget_usd": float("inf")}, ["budget_usd"], "finite"),
    "budget in words": ({"workflow_id": "w", "budget_usd": "1"}, ["budget_usd"], "valid number"),
    "unknown field": ({"workflow_id": "w", "version": "1.0.0"}, ["version"], "no field 'version'"),
}


@on_sqlite
@pytest.mark.parametrize(("body", "loc", "fragment"), RUNS.values(), ids=list(RUNS))
def test_each_rule_of_a_run_has_its_422(client, rows, problem, body, loc, fragment):
    found = problem(client.post(EXECUTE, content=as_sent(body), headers=JSON), 422)
    assert [error["loc"] for error in found["errors"]] == [["body", *loc]]
    assert fragment in found["errors"][0]["msg"]
    assert rows.all(ExecutionRow) == []


BODIES = {
    "nothing": (b"", "required"),
    "null": (b"null", "required"),
    "no JSON": (b'{"workflow_id": ', "no JSON"),
    "a comma too many": (b'{"workflow_id": "w",}', "no JSON"),
    "not UTF-8": (b'{"workflow_id": "\xff"}', "not UTF-8"),
    "deep lists": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 50_000, "nested too deeply"),
    "a huge number": (b'{"inputs": {"x": ' + b"9" * 5000 + b"}}", "too many digits"),
    "a list": (b"[]", ""),
    "a number": (b"1e400", ""),
    "a text": (b'"\\ud800"', ""),
    "half a character as a field": (b'{"\\ud800": "\\udc00"}', ""),
    "NUL as a field": (b'{"\\u0000": 1}', ""),
    "the same field twice": (b'{"workflow_id": 1, "workflow_id": 2}', ""),
    "thousands of unknown fields": (json.dumps({f"unknown{n}": n for n in range(10_000)}).encode(), "and "),
}


@on_sqlite
@pytest.mark.parametrize("path", [PATH, EXECUTE])
@pytest.mark.parametrize(("body", "fragment"), BODIES.values(), ids=list(BODIES))
def test_a_body_that_is_no_definition_at_all_is_422(client, problem, path, body, fragment):
    found = problem(client.post(path, content=body, headers=JSON), 422)
    assert fragment in found["detail"]
    assert 1 <= len(found["errors"]) <= 50
    assert all(error["loc"][0] == "body" for error in found["errors"])


@on_sqlite
@pytest.mark.parametrize("path", [PATH, EXECUTE])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "é", None]
)
def test_a_body_that_does_not_say_that_it_is_json_is_told_how(client, problem, path, kind):
    headers = {} if kind is None else {"Content-Type": kind.encode()}
    found = problem(client.post(path, content=b'{"workflow_id": "w"}', headers=headers), 422)
    assert "Content-Type: application/json" in found["detail"]


TOO_BIG = [10**30, 1 << 63, -(1 << 63) - 1, -(10**400)]

WHERE = {
    "a run's inputs": (EXECUTE, lambda n: {"workflow_id": "w", "inputs": {"n": n}}, ["inputs", "n"]),
    "a step's inputs": (PATH, lambda n: step(inputs={"n": [n]}), ["steps", 0, "inputs", "n", 0]),
    "metadata": (PATH, lambda n: workflow(metadata={"a": {"n": n}}), ["metadata", "a", "n"]),
    "a schema's default": (
        PATH,
        lambda n: workflow(input_schema={"type": "object", "properties": {"n": {"default": n}}}),
        ["input_schema", "properties", "n", "default"],
    ),
    "a schema's bound": (
        PATH,
        lambda n: workflow(input_schema={"type": "object", "properties": {"n": {"maximum": n}}}),
        ["input_schema", "properties", "n", "maximum"],
    ),
}


@on_sqlite
@pytest.mark.parametrize("number", TOO_BIG, ids=["10^30", "2^63", "-2^63-1", "-10^400"])
@pytest.mark.parametrize(("path", "body", "loc"), WHERE.values(), ids=list(WHERE))
def test_an_integer_of_more_than_64_bits_is_422(client, rows, problem, path, body, loc, number):
    found = problem(client.post(path, json=body(number)), 422)
    assert [error["loc"] for error in found["errors"]] == [["body", *loc]]
    assert "64" in found["detail"]
    assert rows.all(WorkflowRow) == rows.all(ExecutionRow) == []


def test_the_integers_of_64_bits_are_kept_as_they_are(client):
    ends = {"low": -(1 << 63), "high": (1 << 63) - 1}
    answer = client.post(PATH, json=workflow(metadata=ends))
    assert answer.status_code == 201
    assert client.get(answer.headers["location"]).json()["metadata"] == ends


@on_sqlite
def test_an_integer_without_end_is_no_budget_and_no_500(client, problem):
    problem(client.post(EXECUTE, json={"workflow_id": "w", "budget_usd": 10**400}), 422)
    problem(client.post(PATH, json=workflow(budget_usd=10**400)), 422)


def sized(size):
    body = workflow(metadata={"x": ""})
    body["metadata"]["x"] = "x" * (size - len(as_sent(body)))
    assert len(as_sent(body)) == size
    return as_sent(body)


def test_a_definition_over_a_mebibyte_is_413(client, problem):
    assert client.post(PATH, content=sized(1 << 20), headers=JSON).status_code == 201
    found = problem(client.post(PATH, content=sized((1 << 20) + 1), headers=JSON), 413)
    assert "at most 1 MiB, and this has 1,048,577 bytes" in found["detail"]


def test_inputs_over_256_kib_are_413_however_they_are_written(client, post, rows, problem):
    post(workflow())

    def execute(length, **how):
        body = {"workflow_id": "data-pipeline", "inputs": {"x": "é" * (length // 2)}}
        return client.post(EXECUTE, content=json.dumps(body, **how).encode(), headers=JSON)

    overhead = len('{"x":""}')
    # Escaped, each of these characters takes three times as many bytes on the wire.
    assert execute((256 << 10) - overhead).status_code == 503
    found = problem(execute((256 << 10) - overhead + 2, ensure_ascii=False), 413)
    assert "at most 256 KiB" in found["detail"]
    assert rows.all(ExecutionRow) == []


@on_sqlite
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_body_over_the_limit_of_the_settings_is_413(start, problem, chunked):
    client = start(API_MAX_REQUEST_SIZE="1000")
    pieces = [b'{"workflow_id": "', *([b"a" * 100] * 20), b'"}']
    sent = []

    def chunks():
        for piece in pieces:
            sent.append(piece)
            yield piece

    content = chunks() if chunked else b"".join(pieces)
    found = problem(client.post(PATH, content=content, headers=JSON), 413)
    assert "1000 bytes (API_MAX_REQUEST_SIZE)" in found["detail"]
    assert client.post(PATH, content=b"{}" + b" " * 998, headers=JSON).status_code == 422


@on_sqlite
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", PATH), ("PUT", EXECUTE), ("GET", EXECUTE), ("PATCH", f"{PATH}/w/1.0.0"), ("POST", "/health")],
)
def test_a_method_that_is_not_there_is_405(client, problem, method, path):
    answer = client.request(method, path)
    assert method in problem(answer, 405)["detail"]
    assert answer.headers["allow"]


BAD_QUERIES = {
    "limit=0": "limit",
    "limit=201": "limit",
    "limit=x": "limit",
    "limit=" + "9" * 5000: "limit",
    "status=new": "status",
    "status=%00": "status",
    "tag=%00": "tag",
    "tag=" + "a" * 101: "tag",
    "q=a%00b": "q",
    "q=" + "a" * 201: "q",
    "cursor=x": "cursor",
    "cursor=%00": "cursor",
    "cursor=%F0%9F%9A%80": "cursor",
    "cursor=" + "a" * 2000: "cursor",
    "cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgIlx1MDAwMCJd": "cursor",
    "cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgImEiXQ": "cursor",
}


@pytest.mark.parametrize(("query", "name"), BAD_QUERIES.items(), ids=[query[:30] for query in BAD_QUERIES])
def test_a_bad_query_is_422_and_names_the_parameter(client, problem, query, name):
    found = problem(client.get(f"{PATH}?{query}"), 422)
    assert [error["loc"] for error in found["errors"]] == [["query", name]]


@pytest.mark.parametrize(
    "query", ["q=%ED%A0%80", "tag=%FF", "q=%25_%5C", "q=&tag=", "unknown=1", "q=%F0%9F%9A%80"]
)
def test_an_odd_query_finds_nothing_and_harms_nothing(client, post, query):
    post(workflow())
    assert client.get(f"{PATH}?{query}").status_code == 200


BAD_IDS = ["x", "%00", "a" * 5000, "%F0%9F%9A%80", "6a0f6f3e-0000-4000-8000-000000000000", "%7B%7D", "latest"]


@pytest.mark.parametrize("text", BAD_IDS, ids=[text[:20] for text in BAD_IDS])
def test_an_execution_that_is_not_there_is_404(client, problem, text):
    found = problem(client.get(f"{PATH}/executions/{text}"), 404)
    assert len(found["detail"]) < 200
