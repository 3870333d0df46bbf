"""Both wires through pydantic-ai, which the package itself uses: answers, structured output, typed errors."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput, exceptions
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import ModelRequest, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from cognitionos_provider.simulator import SimulatorServer


class Step(BaseModel):
    name: str
    cost: float


class Plan(BaseModel):
    goal: str
    steps: list[Step]
    owner: str | None


@pytest.fixture(params=["openai", "anthropic"])
def model(request: pytest.FixtureRequest, sim: SimulatorServer) -> Model:
    if request.param == "openai":
        asking = openai.AsyncOpenAI(base_url=sim.openai_base_url, api_key="any", max_retries=0)
        return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=asking))
    client = anthropic.AsyncAnthropic(base_url=sim.anthropic_base_url, api_key="any", max_retries=0)
    return AnthropicModel("claude-opus-4-5", provider=AnthropicProvider(anthropic_client=client))


ASKED = [ModelRequest.user_text_prompt("What is the capital of France?")]


async def test_a_direct_request_is_answered_with_usage(sim: SimulatorServer, model: Model) -> None:
    response = await model_request(model, ASKED)
    (part,) = response.parts
    assert isinstance(part, TextPart)
    assert part.content.startswith(f"[simulated {model.system}:{model.model_name}] ")
    billed = sim.stats()["billed"]
    assert response.usage.input_tokens == billed["input_tokens"]
    assert response.usage.output_tokens == billed["output_tokens"]
    assert response.finish_reason == "stop"


async def test_a_streamed_request_gives_the_same_text(model: Model) -> None:
    whole = await model_request(model, ASKED)
    async with model_request_stream(model, ASKED) as stream:
        async for _ in stream:
            pass
    assert stream.get().text == whole.text
    assert stream.get().usage == whole.usage


@pytest.mark.parametrize("output", [ToolOutput, NativeOutput])
async def test_structured_output_is_valid(model: Model, output: Any) -> None:
    result = await Agent(model, output_type=output(Plan)).run("Plan my day")
    step = Step(name="simulated name", cost=0)
    assert result.output == Plan(goal="simulated goal", steps=[step], owner="simulated owner")


@pytest.mark.parametrize("output", [ToolOutput, NativeOutput])
async def test_a_rule_gives_the_structured_output_literally(
    sim: SimulatorServer, model: Model, output: Any
) -> None:
    plan = {"goal": "über\x00", "steps": [], "owner": None}
    sim.configure(answer_json=plan)
    result = await Agent(model, output_type=output(Plan)).run("Plan my day")
    assert result.output.model_dump() == plan


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"status": 429, "retry_after": 1.5}, exceptions.ModelRateLimitError),
        ({"error_code": "rate_limit_exceeded"}, exceptions.ModelRateLimitError),
        ({"error_code": "insufficient_quota"}, exceptions.ModelQuotaExceededError),
        ({"error_code": "context_length_exceeded"}, exceptions.ModelContextWindowExceededError),
        ({"error_type": "overloaded_error"}, exceptions.ModelOverloadedError),
        ({"status": 529, "error_type": "overloaded_error"}, exceptions.ModelOverloadedError),
        ({"error_code": "invalid_api_key"}, exceptions.ModelAuthenticationError),
        ({"status": 401}, exceptions.ModelAuthenticationError),
        ({"status": 403}, exceptions.ModelAuthenticationError),
        ({"status": 404}, exceptions.ModelNotFoundError),
        ({"error_type": "not_found_error"}, exceptions.ModelNotFoundError),
        ({"status": 400}, exceptions.ModelRequestRejectedError),
        ({"status": 422}, exceptions.ModelRequestRejectedError),
        ({"status": 500}, exceptions.ModelServerError),
        ({"status": 503}, exceptions.ModelUnavailableError),
    ],
)
async def test_a_fault_is_raised_as_its_typed_error(
    sim: SimulatorServer, model: Model, rule: dict[str, Any], error: type[Exception]
) -> None:
    sim.configure(**rule, match={"provider": model.system})
    with pytest.raises(error) as raised:
        await model_request(model, ASKED)
    assert isinstance(raised.value, exceptions.ModelHTTPError)
    if "retry_after" in rule:
        assert raised.value.retry_after == 1.5


@pytest.mark.parametrize("drop", ["before", "headers", "body"])
async def test_a_dropped_connection_is_a_connection_error(
    sim: SimulatorServer, model: Model, drop: str
) -> None:
    sim.configure(drop=drop)
    with pytest.raises(exceptions.ModelConnectionError):
        await model_request(model, ASKED)


async def test_a_refusal_is_a_content_filter(sim: SimulatorServer, model: Model) -> None:
    sim.configure(refusal=True, answer="not that")
    response = await model_request(model, ASKED)
    assert response.finish_reason == "content_filter"
    assert (response.provider_details or {})["refusal"] == "not that"


async def test_a_finish_reason_may_be_given_in_either_providers_words(
    sim: SimulatorServer, model: Model
) -> None:
    sim.configure(finish_reason="length", times=1)
    sim.configure(finish_reason="max_tokens")
    assert (await model_request(model, ASKED)).finish_reason == "length"
    assert (await model_request(model, ASKED)).finish_reason == "length"
