"""Objects by JSON Schema: by the provider's own means, as a tool's input, or by words."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cognitionos_provider.exceptions import AllModelsFailedError
from cognitionos_provider.llm import LLMRequest, LLMRouter
from cognitionos_provider.llm.answer import parse_object
from cognitionos_provider.llm.structure import is_closed
from cognitionos_provider.simulator import SimulatorServer

Ask = Callable[..., LLMRequest]
MakeRouter = Callable[..., LLMRouter]
Serve = Callable[..., Awaitable[str]]

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["n", "tags"],
}
# Newer models have output formats; GPT-4 and Claude 3 have tools only.
MODELS = [
    "openai:gpt-6-luna",
    "openai:gpt-4",
    "anthropic:claude-haiku-5-5",
    "anthropic:claude-3-haiku-20240307",
]


@pytest.mark.parametrize("model", MODELS)
async def test_the_output_is_an_object_that_satisfies_the_schema(
    router: LLMRouter, ask: Ask, model: str
) -> None:
    response = await router.generate(ask(model, output_schema=SCHEMA))
    assert isinstance(response.output, dict)
    assert isinstance(response.output["n"], int)
    assert json.loads(response.content) == response.output


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ("openai:gpt-6-luna", ("response_format", "json_schema")),
        ("openai:gpt-4o", ("response_format", "json_schema")),
        ("openai:gpt-4.1-mini", ("response_format", "json_schema")),
        ("openai:gpt-4", ("tools", 0)),
        ("openai:gpt-4-turbo", ("tools", 0)),
        ("openai:gpt-3.5-turbo", ("tools", 0)),
        ("anthropic:claude-haiku-5-5", ("output_config", "format")),
        ("anthropic:claude-3-haiku-20240307", ("tool_choice", "type")),
    ],
)
async def test_a_model_is_asked_by_the_best_means_that_it_has(
    make_router: MakeRouter, serve: Serve, received: list[bytes], ask: Ask, model: str, where: tuple[str, Any]
) -> None:
    url = await serve(b"", "500 Internal Server Error")
    router = make_router(openai_base_url=url, anthropic_base_url=url)
    with pytest.raises(AllModelsFailedError):
        await router.generate(ask(model, output_schema=SCHEMA))
    sent = json.loads(received[0])
    assert sent[where[0]][where[1]]


OPEN = [
    {"type": "object"},
    {"type": "object", "required": ["n"]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"map": {"type": "object", "additionalProperties": True}}},
    {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object"}}}},
    {"type": "object", "properties": {"any": {}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "object"}}},
]


@pytest.mark.parametrize("schema", OPEN)
@pytest.mark.parametrize("model", MODELS)
async def test_what_an_output_format_can_not_say_is_asked_for_as_it_is(
    make_router: MakeRouter, serve: Serve, received: list[bytes], ask: Ask, model: str, schema: dict[str, Any]
) -> None:
    assert not is_closed(schema)
    url = await serve(b"", "500 Internal Server Error")
    router = make_router(openai_base_url=url, anthropic_base_url=url)
    with pytest.raises(AllModelsFailedError):
        await router.generate(ask(model, output_schema=schema))
    (tool,) = json.loads(received[0])["tools"]
    told = tool["input_schema"] if "input_schema" in tool else tool["function"]["parameters"]
    # Nothing is closed that was open.
    assert '"additionalProperties": false' not in json.dumps(told)
    assert told.get("required", []) == schema.get("required", [])


def test_an_object_with_named_properties_is_closed() -> None:
    assert is_closed(SCHEMA)
    assert is_closed({**SCHEMA, "additionalProperties": False})
    nested = {
        "type": "object",
        "properties": {"a": {"anyOf": [SCHEMA, {"type": "null"}]}, "e": {"enum": [1]}},
    }
    assert is_closed(nested)


async def test_text_beside_a_tools_input_does_not_take_its_place(
    make_router: MakeRouter, serve: Serve, ask: Ask
) -> None:
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-3-haiku-20240307",
        "content": [
            {"type": "text", "text": "Here you are."},
            {"type": "tool_use", "id": "t", "name": "answer", "input": {"n": 4, "tags": []}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    url = await serve(json.dumps(message).encode(), "200 OK", "content-type: application/json")
    router = make_router(anthropic_base_url=url)
    response = await router.generate(ask("anthropic:claude-3-haiku-20240307", output_schema=SCHEMA))
    assert response.output == {"n": 4, "tags": []}


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_that_breaks_the_schema_never_gets_out(
    make_router: MakeRouter, sim: SimulatorServer, ask: Ask, model: str
) -> None:
    sim.configure({"answer_json": {"n": "one", "tags": []}, "times": 1})
    response = await make_router(tries_per_model=2).generate(ask(model, output_schema=SCHEMA))
    broken, _ = response.attempts
    assert (broken.error_class, broken.possibly_billed) == ("schema", False)
    assert "n: 'one' is not of type 'integer'" in (broken.message or "")
    assert broken.cost_usd
    # The model was told what is wrong.
    assert "does not satisfy" in sim.calls()[-1]["question"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_may_be_read_as_it_is_made(
    router: LLMRouter, sim: SimulatorServer, ask: Ask, model: str, stream: bool
) -> None:
    sim.configure({"answer": "one two three four", "usage": {"input_tokens": 10, "output_tokens": 5}})
    response = await router.generate(ask(model, stream=stream))
    assert response.content == "one two three four"
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (10, 5)
    assert response.cost_usd is not None


@pytest.mark.parametrize(
    ("content", "value", "problem"),
    [
        ('{"a": 1}', {"a": 1}, None),
        ('```json\n{"a": 1}\n```', {"a": 1}, None),
        ('```\n{"a": "x\\u0000"}\n```', {"a": "x\ufffd"}, None),
        ("{}", None, "'a' is a required property"),
        ("[1]", None, "is not of type 'object'"),
        ("so", None, "it is not JSON"),
        ("[" * 100_000, None, "it is not JSON"),
    ],
)
def test_an_answer_is_read_as_json_with_or_without_a_fence(
    content: str, value: Any, problem: str | None
) -> None:
    found, why = parse_object(content, {"type": "object", "required": ["a"]})
    assert found == value
    assert (why is None) if problem is None else (problem in (why or ""))
