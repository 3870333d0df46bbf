"""Faults on request: which calls a rule is for, and what each field of it does, seen over the wire."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from cognitionos_provider.simulator import SimulatorServer
from cognitionos_provider.simulator.rules import Rule, RuleBook, RuleError

OPENAI = {"path": "/v1/chat/completions", "authorization": "Bearer any"}
ANTHROPIC = {"path": "/v1/messages", "x_api_key": "any"}


def ask(call: Any, wire: dict[str, str], model: str = "m", text: str = "hello", **more: Any) -> Any:
    body = {"model": model, "max_tokens": 99, "messages": [{"role": "user", "content": text}], **more}
    status, headers, content = call(
        "POST", wire["path"], body, **{k: v for k, v in wire.items() if k != "path"}
    )
    return status, headers, content if more.get("stream") else json.loads(content)


def text_of(answer: Any) -> Any:
    _, _, body = answer
    return body["choices"][0]["message"]["content"] if "choices" in body else body["content"][0]["text"]


def test_a_rule_is_for_the_calls_that_match_all_of_it(sim: SimulatorServer, call: Any) -> None:
    sim.configure(match={"provider": "openai", "model": "m", "contains": "magic"}, status=500)
    assert ask(call, OPENAI, text="a magic word")[0] == 500
    assert ask(call, OPENAI, text="a word")[0] == 200
    assert ask(call, OPENAI, model="n", text="a magic word")[0] == 200
    assert ask(call, ANTHROPIC, text="a magic word")[0] == 200


def test_a_rule_sees_the_system_text_and_may_name_a_path(sim: SimulatorServer, call: Any) -> None:
    sim.configure(match={"contains": "be wise", "path": "/v1/messages"}, status=500)
    assert ask(call, ANTHROPIC, system="be wise")[0] == 500
    assert ask(call, OPENAI, text="be wise")[0] == 200


def test_a_rule_for_a_provider_is_for_its_list_of_models_too(sim: SimulatorServer, call: Any) -> None:
    sim.configure(match={"provider": "openai"}, status=503)
    assert call("GET", "/v1/models", authorization="Bearer any")[0] == 503
    assert call("GET", "/v1/models", x_api_key="any")[0] == 200


def test_skip_and_times_choose_calls_and_the_rest_goes_to_the_next_rule(
    sim: SimulatorServer, call: Any
) -> None:
    first, second = sim.configure(
        {"skip": 1, "times": 2, "status": 429}, {"skip": 1, "times": 1, "status": 500}
    )
    assert [ask(call, OPENAI)[0] for _ in range(6)] == [200, 429, 429, 500, 200, 200]
    assert [each["rule"] for each in sim.calls()] == [None, first, first, second, None, None]


def test_a_rule_with_times_zero_is_never_applied() -> None:
    book = RuleBook()
    book.add([{"times": 0, "status": 500}])
    assert book.pick("openai", "/", "m", "") is None


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"status": 429}, (429, "requests", "rate_limit_exceeded")),
        (
            {"status": 429, "error_code": "insufficient_quota"},
            (429, "insufficient_quota", "insufficient_quota"),
        ),
        ({"error_type": "overloaded_error"}, (503, "service_unavailable_error", "server_is_overloaded")),
        ({"error_code": "invalid_api_key", "error_type": "own"}, (401, "own", "invalid_api_key")),
        ({"status": 500, "error_code": "rate_limit_exceeded"}, (500, "server_error", "rate_limit_exceeded")),
        ({"status": 408, "error_type": "timeout", "error_code": "slow"}, (408, "timeout", "slow")),
        ({"status": 409}, (409, "invalid_request_error", None)),
    ],
)
def test_an_error_of_openai_has_its_type_and_code(
    sim: SimulatorServer, call: Any, rule: Any, wanted: Any
) -> None:
    sim.configure({**rule, "message": "as told"})
    status, _, body = ask(call, OPENAI)
    error = body["error"]
    assert (status, error["type"], error["code"]) == wanted
    assert error["message"] == "as told"


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"status": 400}, (400, "invalid_request_error", None)),
        ({"status": 402}, (402, "billing_error", None)),
        ({"status": 409}, (409, "conflict_error", None)),
        ({"status": 500}, (500, "api_error", None)),
        ({"status": 500, "error_type": "overloaded_error"}, (500, "overloaded_error", None)),
        ({"error_type": "overloaded_error"}, (529, "overloaded_error", None)),
        ({"error_code": "rate_limit_exceeded"}, (429, "rate_limit_error", None)),
        (
            {"status": 429, "error_code": "ramp_limit_exceeded"},
            (429, "rate_limit_error", "ramp_limit_exceeded"),
        ),
    ],
)
def test_an_error_of_anthropic_has_its_type_and_code(
    sim: SimulatorServer, call: Any, rule: Any, wanted: Any
) -> None:
    sim.configure(rule)
    status, headers, body = ask(call, ANTHROPIC)
    error = body["error"]
    assert (status, error["type"], error.get("details", {}).get("error_code")) == wanted
    assert body["type"] == "error"
    assert body["request_id"] == headers["request-id"]


@pytest.mark.parametrize(("seconds", "whole", "milliseconds"), [(2, "2", None), (0.25, "1", "250")])
def test_retry_after_is_a_header_of_whole_seconds(
    sim: SimulatorServer, call: Any, seconds: float, whole: str, milliseconds: str | None
) -> None:
    sim.configure(status=429, retry_after=seconds)
    _, headers, _ = ask(call, OPENAI)
    assert headers["retry-after"] == whole
    assert headers.get("retry-after-ms") == milliseconds


@pytest.mark.parametrize("wire", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "text", ["", "plain", "NUL \x00 inside", "half a pair \ud800", "[simulated] \U0001f600"]
)
def test_an_answer_is_given_literally(
    sim: SimulatorServer, call: Any, wire: dict[str, str], text: str
) -> None:
    sim.configure(answer=text)
    assert text_of(ask(call, wire)) == text
    _, _, stream = ask(call, wire, stream=True)
    events = [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: {")]
    deltas = [each.get("delta") or (each.get("choices") or [{}])[0].get("delta", {}) for each in events]
    assert "".join(delta.get("text", "") or delta.get("content", "") for delta in deltas) == text


@pytest.mark.parametrize("value", [None, 5, ["ü"], {"a": "\x00"}, {"__classname__": "x"}, "\udfff"])
def test_an_answer_in_json_is_its_text(sim: SimulatorServer, call: Any, value: Any) -> None:
    sim.configure(answer_json=value)
    text = text_of(ask(call, OPENAI))
    assert json.loads(text) == value
    text.encode()


def test_json_is_written_in_plain_characters(sim: SimulatorServer, call: Any) -> None:
    sim.configure(answer_json="ü")
    assert text_of(ask(call, OPENAI)) == '"ü"'


def test_a_refusal_has_the_shape_of_the_provider(sim: SimulatorServer, call: Any) -> None:
    sim.configure(refusal=True)
    _, _, ours = ask(call, OPENAI)
    _, _, theirs = ask(call, ANTHROPIC)
    assert ours["choices"][0]["message"]["content"] is None
    assert ours["choices"][0]["message"]["refusal"] == "[simulated openai:m] declined"
    assert (theirs["content"], theirs["stop_reason"]) == ([], "refusal")
    assert theirs["stop_details"]["explanation"] == "[simulated anthropic:m] declined"
    _, _, stream = ask(call, OPENAI, stream=True)
    assert b'"refusal": "[sim' in stream


def test_usage_can_be_set_and_is_what_is_billed(sim: SimulatorServer, call: Any) -> None:
    sim.configure(usage={"input_tokens": 1000, "output_tokens": 0, "cache_read_input_tokens": 7})
    _, _, ours = ask(call, OPENAI)
    _, _, theirs = ask(call, ANTHROPIC)
    assert ours["usage"]["prompt_tokens"] == ours["usage"]["total_tokens"] == 1000
    assert theirs["usage"]["cache_read_input_tokens"] == 7
    assert sim.stats()["billed"] == {"calls": 2, "input_tokens": 2000, "output_tokens": 0}


def test_latency_comes_before_the_answer(sim: SimulatorServer, call: Any) -> None:
    sim.configure(latency=0.2)
    assert ask(call, OPENAI)[0] == 200
    (made,) = sim.calls()
    assert 0.19 < made["finished"] - made["received"] < 2


@pytest.mark.parametrize(
    ("drop", "received", "billed"),
    [("before", b"", False), ("headers", b"200 OK", True), ("body", b'{"id"', True)],
)
def test_a_dropped_connection_breaks_off_where_it_says(
    sim: SimulatorServer, call: Any, connect: Any, drop: str, received: bytes, billed: bool
) -> None:
    whole = ask(call, OPENAI)[2]
    sim.reset()
    sim.configure(drop=drop)
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    connection = connect("POST", OPENAI["path"], body, authorization="Bearer any")
    got = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received in got
    assert (b"" if drop == "before" else b"content-length") in got
    assert len(got.partition(b"\r\n\r\n")[2]) in (
        {0} if drop != "body" else range(150, len(json.dumps(whole)) - 1)
    )
    (made,) = sim.calls()
    assert made["status"] == "dropped"
    assert (made["billed"] is not None) is billed
    assert made["disconnected"] is False


def test_an_error_can_be_dropped_too_and_is_not_billed(sim: SimulatorServer, connect: Any) -> None:
    sim.configure(drop="body", status=500, slow_body=0.05)
    connection = connect("POST", OPENAI["path"], {"model": "m", "messages": [{}]}, authorization="Bearer any")
    got = b"".join(iter(lambda: connection.recv(65536), b""))
    assert got.startswith(b"HTTP/1.1 500")
    assert not got.endswith(b"}")
    assert sim.stats()["billed"]["calls"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_body_trickles_out_in_pieces(sim: SimulatorServer, connect: Any, stream: bool) -> None:
    sim.configure(slow_body=0.3)
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    started = time.monotonic()
    connection = connect("POST", OPENAI["path"], body, authorization="Bearer any", connection="close")
    pieces = list(iter(lambda: connection.recv(65536), b""))
    assert time.monotonic() - started > 0.28
    assert len(pieces) > 2
    assert b"".join(pieces).rstrip().endswith(b"0" if stream else b"}")


@pytest.mark.parametrize("rule", [{"latency": 0.1}, {"slow_body": 4}])
def test_a_client_that_leaves_is_on_record_and_billed(sim: SimulatorServer, connect: Any, rule: Any) -> None:
    sim.configure(rule)
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    connection: socket.socket = connect("POST", OPENAI["path"], body, authorization="Bearer any")
    sim.wait_for(lambda stats: stats["in_flight"] == 1)
    connection.close()
    stats = sim.wait_for(lambda stats: stats["in_flight"] == 0)
    (made,) = sim.calls()
    assert (made["disconnected"], made["status"]) == (True, 200)
    # The provider works on after its client has left, but not on sending.
    assert rule.get("latency", 0) * 0.95 < made["finished"] - made["received"] < 3
    assert made["billed"]["output_tokens"] > 0
    assert (stats["disconnected"], stats["billed"]["calls"]) == (1, 1)


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"statsu": 500}, "statsu"),
        ({"match": {"provider": "mistral"}}, "match.provider"),
        ({"status": 200, "error_type": "x"}, "an error needs a status"),
        ({"message": "x"}, "an error needs a status"),
        ({"status": 302}, "302"),
        ({"status": 600}, "status"),
        ({"latency": -1}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"drop": "late"}, "drop"),
        ({"usage": {"input_tokens": "many"}}, "usage.input_tokens"),
        ({"usage": {"output_tokens": -1}}, "usage.output_tokens"),
        (5, "rule"),
    ],
)
def test_a_malformed_rule_is_refused_by_name_and_none_is_added(rule: Any, named: str) -> None:
    book = RuleBook()
    with pytest.raises(RuleError, match="rule 1: ") as raised:
        book.add([Rule(status=500), rule])
    assert named in str(raised.value)
    assert book.as_json() == []


def test_rules_can_be_set_read_and_removed_over_http(sim: SimulatorServer, call: Any) -> None:
    status, headers, body = call("POST", "/control/rules", {"status": 500, "times": 1})
    (number,) = json.loads(body)["added"]
    assert (status, headers["x-simulated"]) == (200, "true")
    assert len(json.loads(call("POST", "/control/rules", [{"latency": 0}, {}])[2])["added"]) == 2
    assert ask(call, OPENAI)[0] == 500
    first = json.loads(call("GET", "/control/rules")[2])["rules"][0]
    assert first == {"number": number, "seen": 1, "applied": 1, "rule": {"status": 500, "times": 1}}
    assert json.loads(call("DELETE", "/control/rules")[2]) == {"removed": 3}
    assert ask(call, OPENAI)[0] == 200


def test_an_answer_set_over_http_may_hold_any_text(call: Any) -> None:
    call("POST", "/control/rules", b'{"answer": "a\\u0000b\\ud800c"}')
    assert text_of(ask(call, ANTHROPIC)) == "a\x00b\ud800c"


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, [{"status": 500}, {"drop": 1}]])
def test_malformed_rules_are_refused_over_http(sim: SimulatorServer, call: Any, body: Any) -> None:
    status, _, content = call("POST", "/control/rules", body)
    assert status == 400
    assert "no rule was added" in json.loads(content)["error"]
    assert ask(call, OPENAI)[0] == 200


def test_an_unknown_control_path_is_404_and_names_the_known(call: Callable[..., Any]) -> None:
    status, _, content = call("POST", "/control/nothing")
    assert status == 404
    assert "/control/rules" in json.loads(content)["error"]
