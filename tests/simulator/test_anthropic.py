"""Anthropic Messages, asked by the anthropic SDK over the wire."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from cognitionos_provider.simulator import SimulatorServer

HELLO: list[Any] = [{"role": "user", "content": "Hello,\n  you there"}]
TOOLS: list[Any] = [
    {
        "name": name,
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
        },
    }
    for name in ("weather", "news")
]


class Report(BaseModel):
    title: str
    score: int


@pytest.fixture
def client(sim: SimulatorServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=sim.anthropic_base_url, api_key="any", max_retries=0)


def ask(client: anthropic.Anthropic, **more: Any) -> Any:
    return client.messages.create(**{"model": "claude-x", "max_tokens": 100, "messages": HELLO, **more})


def test_the_answer_says_that_it_is_simulated_and_echoes_the_last_user_message(
    client: anthropic.Anthropic,
) -> None:
    answer = ask(client)
    assert answer.content[0].text.startswith("[simulated anthropic:claude-x] ")
    assert answer.content[0].text.endswith(" Hello, you there")
    assert answer.stop_reason == "end_turn"
    assert answer._request_id.startswith("req_")


def test_usage_counts_system_text_tool_results_and_tool_inputs(client: anthropic.Anthropic) -> None:
    plain = ask(client).usage.input_tokens
    used = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "x" * 400}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "y" * 400}]}
    messages = [*HELLO, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    full = ask(client, system=[{"type": "text", "text": "z" * 400}], messages=messages)
    assert full.usage.input_tokens >= plain + 300
    assert full.content[0].text.endswith(" " + "y" * 80)


def test_the_same_request_gets_the_same_answer(client: anthropic.Anthropic) -> None:
    assert ask(client) == ask(client)


def test_a_stream_adds_up_to_the_whole_answer(client: anthropic.Anthropic) -> None:
    whole = ask(client)
    with client.messages.stream(model="claude-x", max_tokens=100, messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)
    assert kinds[0] == "message_start"
    assert kinds.count("content_block_delta") == 4
    assert kinds[-1] == "message_stop"


def test_max_tokens_cuts_the_answer(client: anthropic.Anthropic) -> None:
    answer = ask(client, max_tokens=3)
    assert answer.content[0].text == "[simulated a"
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 3


def test_an_output_format_with_a_schema_is_satisfied(client: anthropic.Anthropic) -> None:
    answer = client.messages.parse(model="claude-x", max_tokens=100, messages=HELLO, output_format=Report)
    assert answer.parsed_output == Report(title="simulated title", score=0)


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_both_places_of_an_output_format_are_understood(client: anthropic.Anthropic, field: str) -> None:
    form: Any = {
        "type": "json_schema",
        "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
    }
    answer = ask(client, extra_body={field: {"format": form} if field == "output_config" else form})
    assert json.loads(answer.content[0].text) == {"ok": True}


@pytest.mark.parametrize(
    ("choice", "named"), [({"type": "any"}, "weather"), ({"type": "tool", "name": "news"}, "news")]
)
def test_a_forced_tool_is_called_with_input_that_fits(
    client: anthropic.Anthropic, choice: Any, named: str
) -> None:
    answer = ask(client, tools=TOOLS, tool_choice=choice)
    (block,) = answer.content
    assert (block.type, block.name) == ("tool_use", named)
    assert block.input == {"city": "simulated city", "days": 2}
    assert answer.stop_reason == "tool_use"


def test_a_tool_that_is_not_forced_is_not_called(client: anthropic.Anthropic) -> None:
    assert ask(client, tools=TOOLS, tool_choice={"type": "auto"}).content[0].type == "text"


def test_a_forced_tool_streams_its_input(client: anthropic.Anthropic) -> None:
    forced: Any = {"type": "any"}
    with client.messages.stream(
        model="claude-x", max_tokens=100, messages=HELLO, tools=TOOLS, tool_choice=forced
    ) as stream:
        (block,) = stream.get_final_message().content
    assert block.type == "tool_use"
    assert block.input == {"city": "simulated city", "days": 2}


def test_a_missing_model_is_not_found_in_the_shape_of_the_provider(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        ask(client, model="missing-model")
    assert raised.value.type == "not_found_error"
    assert raised.value.api_message == "model: missing-model"


def test_models_are_listed_in_the_shape_of_the_provider(client: anthropic.Anthropic) -> None:
    models = list(client.models.list())
    assert models[0].type == "model"
    assert models[0].lifecycle == "active"
    assert models[0].created_at.year == 2025


def test_a_bearer_token_will_do_in_place_of_a_key(sim: SimulatorServer) -> None:
    client = anthropic.Anthropic(base_url=sim.anthropic_base_url, auth_token="any", max_retries=0)
    assert ask(client).type == "message"


def test_without_a_key_the_answer_is_401_in_the_shape_of_the_provider(call: Any) -> None:
    status, headers, body = call("POST", "/v1/messages", {}, anthropic_version="2023-06-01")
    content = json.loads(body)
    assert status == 401
    assert content["type"] == "error"
    assert content["error"]["type"] == "authentication_error"
    assert headers["request-id"] == content["request_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": 1, "messages": HELLO}, "model"),
        ({"model": "m", "messages": HELLO}, "max_tokens"),
        ({"model": "m", "messages": HELLO, "max_tokens": True}, "max_tokens"),
        ({"model": "m", "max_tokens": 1, "messages": [1]}, "messages"),
        ({"model": "m", "max_tokens": 1, "messages": HELLO, "tool_choice": {"type": "any"}}, "tool_choice"),
        (
            {"model": "m", "max_tokens": 1, "messages": HELLO, "output_format": {"type": "json_schema"}},
            "output_config",
        ),
    ],
)
def test_a_request_that_the_provider_would_refuse_is_400_and_names_the_field(
    call: Any, body: Any, field: str
) -> None:
    status, _, content = call("POST", "/v1/messages", body, x_api_key="any")
    error = json.loads(content)["error"]
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(field)
