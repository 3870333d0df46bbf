"""The record of calls: what it tells, over HTTP and in the process, and its totals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cognitionos_provider.simulator import SimulatorServer

HELLO = [{"role": "user", "content": "hello"}]


def openai_call(call: Any, model: str = "m") -> int:
    status, _, _ = call(
        "POST", "/v1/chat/completions", {"model": model, "messages": HELLO}, authorization="Bearer any"
    )
    return int(status)


def test_each_call_is_on_record_in_order_once_its_answer_is_there(sim: SimulatorServer, call: Any) -> None:
    openai_call(call)
    call("GET", "/v1/models", x_api_key="any")
    openai_call(call, "missing-model")
    openai_call(call)
    record = json.loads(call("GET", "/control/calls")[2])["calls"]
    assert record == sim.calls()
    assert [(c["provider"], c["model"], c["path"], c["status"]) for c in record] == [
        ("openai", "m", "/v1/chat/completions", 200),
        ("anthropic", None, "/v1/models", 200),
        ("openai", "missing-model", "/v1/chat/completions", 404),
        ("openai", "m", "/v1/chat/completions", 200),
    ]
    first, listing, missing, again = record
    assert [c["seq"] for c in record] == list(range(first["seq"], first["seq"] + 4))
    assert first["fingerprint"] == again["fingerprint"] != missing["fingerprint"]
    assert first["billed"] == {"input_tokens": 1, "output_tokens": 8}
    assert listing["billed"] is missing["billed"] is None
    assert first["received"] <= first["finished"] <= listing["received"]
    assert first["question"] == "hello"


def test_the_totals_add_up(sim: SimulatorServer, call: Any) -> None:
    sim.configure(times=1, status=500)
    assert [openai_call(call), openai_call(call), openai_call(call, "n")] == [500, 200, 200]
    stats = json.loads(call("GET", "/control/stats")[2])
    assert stats == sim.stats()
    assert stats == {
        "calls": 3,
        "in_flight": 0,
        "max_in_flight": 1,
        "disconnected": 0,
        "by_provider": {"openai": 3},
        "by_model": {"m": 2, "n": 1},
        "by_status": {"500": 1, "200": 2},
        "billed": {"calls": 2, "input_tokens": 2, "output_tokens": 16},
    }


def test_deleting_the_calls_keeps_the_rules_and_resets_the_totals(sim: SimulatorServer, call: Any) -> None:
    sim.configure(status=500)
    openai_call(call)
    assert json.loads(call("DELETE", "/control/calls")[2]) == {"removed": 1}
    assert (sim.calls(), sim.stats()["calls"], sim.stats()["by_status"]) == ([], 0, {})
    assert openai_call(call) == 500


def test_a_call_in_flight_when_the_record_is_emptied_is_forgotten(sim: SimulatorServer, connect: Any) -> None:
    sim.configure(latency=0.1)
    connection = connect(
        "POST", "/v1/chat/completions", {"model": "m", "messages": HELLO}, authorization="Bearer k"
    )
    sim.wait_for(lambda stats: stats["in_flight"] == 1)
    sim.reset()
    assert sim.stats()["max_in_flight"] == 1
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    stats = sim.wait_for(lambda stats: stats["in_flight"] == 0)
    assert (stats["by_status"], stats["billed"]["calls"], sim.calls()) == ({}, 0, [])


def test_a_request_that_never_comes_whole_is_not_on_record(
    sim: SimulatorServer, connect: Any, call: Any
) -> None:
    connect("POST", "/v1/messages", b"{", content_length="100", x_api_key="any").close()
    openai_call(call)
    assert [each["path"] for each in sim.calls()] == ["/v1/chat/completions"]


def test_waiting_for_totals_that_do_not_come_names_them(sim: SimulatorServer) -> None:
    with pytest.raises(TimeoutError, match="'in_flight': 0"):
        sim.wait_for(lambda stats: stats["in_flight"] == 1, timeout=0.01)
