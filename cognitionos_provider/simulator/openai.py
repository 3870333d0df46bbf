"""The wire format of OpenAI Chat Completions, as the ``openai`` SDK's types describe it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from cognitionos_provider.simulator.answer import Answer, Question, RefusedError, Wanted, Wire, text_of
from cognitionos_provider.simulator.rules import KNOWN_FAULTS, Rule

__all__ = ["OPENAI"]

_MODELS = ("gpt-4", "gpt-4-turbo", "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "gpt-5.4", "gpt-5.4-mini")
_FINISH = {
    "tool": "tool_calls",
    "refusal": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
# Status, type, code and message of the faults that a rule can name.
_FAULTS: dict[str | None, tuple[int, str, str | None, str]] = {
    "invalid_api_key": (
        401,
        "invalid_request_error",
        "invalid_api_key",
        "Simulated: this API key is not valid.",
    ),
    "model_not_found": (
        404,
        "invalid_request_error",
        "model_not_found",
        "Simulated: there is no such model.",
    ),
    "context_length_exceeded": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "Simulated: the prompt exceeds this model's maximum context length.",
    ),
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Simulated: too many requests."),
    "insufficient_quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "Simulated: the quota is used up.",
    ),
    "overloaded": (503, "service_unavailable_error", "server_is_overloaded", "Simulated: overloaded."),
}
_FAULT_OF_STATUS = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit"}


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _parse(body: dict[str, Any]) -> Question:
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise RefusedError("you must provide a model parameter", "model")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise RefusedError("'messages' must be a list of one or more messages", "messages")
    texts = [_message_text(each) for each in messages]
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].get("role") == "user"), -1)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise RefusedError(f"the limit of tokens must be a positive integer, not {limit!r}", "max_tokens")
    options = body.get("stream_options")
    return Question(
        provider="openai",
        model=model,
        prompt="\n".join(texts),
        last=texts[last],
        stream=body.get("stream") is True,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
        wanted=_wanted(body),
        max_tokens=limit,
    )


def _message_text(message: dict[str, Any]) -> str:
    text = text_of(message.get("content"))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        text += "".join(str(call["function"].get("arguments", "")) for call in calls if _is_function(call))
    return text


def _is_function(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("function"), dict)


def _wanted(body: dict[str, Any]) -> Wanted | None:
    """Tell which JSON the request insists on: a forced tool comes before a response format."""
    tools = {
        tool["function"].get("name"): tool["function"].get("parameters")
        for tool in body.get("tools") or ()
        if _is_function(tool)
    }
    choice = body.get("tool_choice")
    forced: str | None = None
    if choice == "required":
        forced = next(iter(tools), None)
    elif isinstance(choice, dict) and "function" in choice:
        forced = choice["function"]["name"]
    elif isinstance(choice, dict) and choice["allowed_tools"]["mode"] == "required":
        forced = choice["allowed_tools"]["tools"][0]["function"]["name"]
    if forced is not None:
        if forced not in tools:
            raise RefusedError(f"tool choice {forced!r} is not among the tools of the request", "tool_choice")
        return Wanted(tools[forced], forced)
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_object":
        return Wanted()
    if isinstance(form, dict) and form.get("type") == "json_schema":
        outer = form.get("json_schema")
        schema = outer.get("schema") if isinstance(outer, dict) else None
        if not isinstance(schema, dict):
            raise RefusedError("a json_schema response format needs a schema", "response_format")
        return Wanted(schema)
    return None


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        **answer.usage,
    }


def _tool_call(answer: Answer, fingerprint: str, arguments: str) -> dict[str, Any]:
    function = {"name": answer.tool, "arguments": arguments}
    return {"id": f"call_{fingerprint[:24]}", "type": "function", "function": function}


def _envelope(question: Question, fingerprint: str, kind: str, **rest: Any) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{fingerprint[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": question.model,
        "system_fingerprint": "fp_simulated",
        **rest,
    }


def _body(question: Question, answer: Answer, fingerprint: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool is not None:
        message |= {"content": None, "tool_calls": [_tool_call(answer, fingerprint, answer.text)]}
    elif answer.refused:
        message |= {"content": None, "refusal": answer.text}
    finish = _FINISH.get(answer.finish, answer.finish)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _envelope(question, fingerprint, "chat.completion", choices=[choice], usage=_usage(answer))


def _events(question: Question, answer: Answer, fingerprint: str) -> list[bytes]:
    size = max(1, -(-len(answer.text) // 4))
    texts = [answer.text[i : i + size] for i in range(0, len(answer.text), size)]
    deltas: list[dict[str, Any]]
    if answer.tool is not None:
        deltas = [{"role": "assistant", "tool_calls": [{"index": 0, **_tool_call(answer, fingerprint, "")}]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in texts]
    else:
        part = "refusal" if answer.refused else "content"
        deltas = [{"role": "assistant", part: ""}, *({part: text} for text in texts)]
    finishes: list[str | None] = [None] * len(deltas)
    chunks = [
        _envelope(
            question,
            fingerprint,
            "chat.completion.chunk",
            choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        )
        for delta, finish in zip(
            [*deltas, {}], [*finishes, _FINISH.get(answer.finish, answer.finish)], strict=True
        )
    ]
    if question.stream_usage:
        chunks.append(
            _envelope(question, fingerprint, "chat.completion.chunk", choices=[], usage=_usage(answer))
        )
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]


def _error(rule: Rule, request_id: str, param: str | None) -> tuple[int, dict[str, Any]]:
    fault, status = rule.fault, rule.status
    if status is None:
        # Named in either provider's words and said in this one's.
        status, kind, code, message = _FAULTS[fault]
        kind = kind if rule.error_type in KNOWN_FAULTS else rule.error_type or kind
    else:
        if fault is None or _FAULTS[fault][0] != status:
            fault = _FAULT_OF_STATUS.get(status)
        general = "server_error" if status >= 500 else "invalid_request_error"
        _, kind, code, message = _FAULTS.get(fault, (0, general, None, f"Simulated error {status}."))
        kind, code = rule.error_type or kind, rule.error_code or code
    message = message if rule.message is None else rule.message
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _models() -> dict[str, Any]:
    data = [
        {"id": name, "object": "model", "created": 1735689600, "owned_by": "simulated"} for name in _MODELS
    ]
    return {"object": "list", "data": data}


OPENAI = Wire("openai", b"x-request-id", _key, _parse, _body, _events, _error, _models)
