"""OpenAI Chat Completions, asked by the openai SDK over the wire."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from cognitionos_provider.simulator import SimulatorServer

HELLO: list[Any] = [{"role": "user", "content": "Hello,\n  you there"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
                "required": ["city", "days"],
            },
        },
    }
    for name in ("weather", "news")
]


class Report(BaseModel):
    title: str
    score: int
    tags: list[str]


@pytest.fixture
def client(sim: SimulatorServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=sim.openai_base_url, api_key="any", max_retries=0)


def test_the_answer_says_that_it_is_simulated_and_echoes_the_last_user_message(client: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {"role": "assistant", "content": "Yes?"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And   now"}, {"type": "image_url", "image_url": {}}],
        },
    ]
    raw = client.chat.completions.with_raw_response.create(model="gpt-4", messages=messages)
    answer = raw.parse()
    text = answer.choices[0].message.content
    assert text is not None
    assert text.startswith("[simulated openai:gpt-4] ")
    assert text.endswith(" And now")
    assert answer.choices[0].finish_reason == "stop"
    assert raw.headers["x-simulated"] == "true"
    assert raw.headers["x-request-id"].startswith("req_")


def test_usage_is_a_quarter_of_the_bytes_and_at_least_one_token(client: openai.OpenAI) -> None:
    usage = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "ü" * 20}]).usage
    assert usage is not None
    assert usage.prompt_tokens == 10
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    short = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}]).usage
    assert short is not None
    assert short.prompt_tokens == 1


def test_the_same_request_gets_the_same_answer_and_id_and_another_gets_others(client: openai.OpenAI) -> None:
    first, second = (client.chat.completions.create(model="m", messages=HELLO) for _ in range(2))
    other = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Bye"}])
    assert first.model_dump(exclude={"created"}) == second.model_dump(exclude={"created"})
    assert other.id != first.id
    assert other.choices[0].message.content != first.choices[0].message.content


def test_a_stream_adds_up_to_the_whole_answer_with_usage_if_asked_for(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="m", messages=HELLO)
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=options)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    bare = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in bare)


def test_a_limit_of_tokens_cuts_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=3)
    assert answer.choices[0].message.content == "[simulated o"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_a_response_format_with_a_schema_is_satisfied(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="m", messages=HELLO, response_format=Report)
    report = answer.choices[0].message.parsed
    assert report == Report(title="simulated title", score=0, tags=["simulated tags"])


def test_json_mode_gives_an_object_that_says_it_is_simulated(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="m", messages=HELLO, response_format={"type": "json_object"}
    )
    made = json.loads(answer.choices[0].message.content or "")
    assert made["simulated"] is True
    assert made["answer"].startswith("[simulated openai:m]")


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ("required", "weather"),
        ({"type": "function", "function": {"name": "news"}}, "news"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[1]]}}, "news"),
    ],
)
def test_a_forced_tool_is_called_with_input_that_fits(client: openai.OpenAI, choice: Any, named: str) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS, tool_choice=choice)
    (tool_call,) = answer.choices[0].message.tool_calls or ()
    assert tool_call.type == "function"
    assert tool_call.function.name == named
    assert json.loads(tool_call.function.arguments) == {"city": "simulated city", "days": 2}
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None


@pytest.mark.parametrize(
    "choice", ["auto", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}}]
)
def test_a_tool_that_is_not_forced_is_not_called(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS, tool_choice=choice)
    assert answer.choices[0].message.tool_calls is None


def test_a_forced_tool_streams_its_arguments(client: openai.OpenAI) -> None:
    stream: Any = client.chat.completions.create(
        model="m", messages=HELLO, tools=TOOLS, tool_choice="required", stream=True
    )
    calls = [chunk.choices[0].delta.tool_calls[0] for chunk in stream if chunk.choices[0].delta.tool_calls]
    assert calls[0].function.name == "weather"
    assert json.loads("".join(each.function.arguments for each in calls))["days"] == 2


def test_the_arguments_of_earlier_tool_calls_count_as_prompt(client: openai.OpenAI) -> None:
    made = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "x" * 400}}
    messages: list[Any] = [*HELLO, {"role": "assistant", "tool_calls": [made]}]
    usage = client.chat.completions.create(model="m", messages=messages).usage
    assert usage is not None
    assert usage.prompt_tokens > 100


def test_a_missing_model_is_not_found_in_the_shape_of_the_provider(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="missing-model") as raised:
        client.chat.completions.create(model="missing-model", messages=HELLO)
    assert raised.value.code == "model_not_found"


def test_models_are_listed(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert "gpt-4" in [model.id for model in models]
    assert all(model.object == "model" for model in models)


@pytest.mark.parametrize("key", [{}, {"authorization": "Bearer "}, {"authorization": "Basic abc"}])
def test_without_a_key_the_answer_is_401_in_the_shape_of_the_provider(call: Any, key: dict[str, str]) -> None:
    status, _, body = call("POST", "/v1/chat/completions", {"model": "m", "messages": HELLO}, **key)
    assert status == 401
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        ([], None),
        ({"messages": HELLO}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["hello"]}, "messages"),
        ({"model": "m", "messages": HELLO, "max_tokens": "3"}, "max_tokens"),
        (
            {"model": "m", "messages": HELLO, "tools": TOOLS, "tool_choice": {"function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"model": "m", "messages": HELLO, "tool_choice": {"type": "allowed_tools"}}, None),
        ({"model": "m", "messages": HELLO, "tools": 5}, None),
        ({"model": "m", "messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        (
            {
                "model": "m",
                "messages": HELLO,
                "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}},
            },
            None,
        ),
    ],
)
def test_a_request_that_the_provider_would_refuse_is_400_and_names_the_field(
    sim: SimulatorServer, call: Any, body: Any, param: str | None
) -> None:
    status, _, content = call("POST", "/v1/chat/completions", body, authorization="Bearer any")
    assert status == 400
    assert json.loads(content)["error"]["param"] == param
    assert sim.calls()[0]["billed"] is None


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("POST", "/v1/responses")]
)
def test_what_is_not_served_is_404(call: Any, method: str, path: str) -> None:
    status, _, content = call(method, path, {}, authorization="Bearer any")
    assert status == 404
    assert f"{method} {path}" in json.loads(content)["error"]["message"]
