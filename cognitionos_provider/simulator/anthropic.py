"""The wire format of Anthropic Messages, as the ``anthropic`` SDK's types describe it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cognitionos_provider.simulator.answer import Answer, Question, RefusedError, Wanted, Wire, text_of
from cognitionos_provider.simulator.rules import KNOWN_FAULTS, Rule

__all__ = ["ANTHROPIC"]

_MODELS = (
    "claude-3-haiku-20240307",
    "claude-3-opus-20240229",
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-sonnet-5",
    "claude-opus-5",
)
_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
# Status, type and message of the faults that a rule can name. Two of them are told by their message alone.
_FAULTS: dict[str | None, tuple[int, str, str]] = {
    "invalid_api_key": (401, "authentication_error", "Simulated: this API key is not valid."),
    "model_not_found": (404, "not_found_error", "Simulated: there is no such model."),
    "context_length_exceeded": (
        400,
        "invalid_request_error",
        "Simulated: prompt is too long for this model.",
    ),
    "rate_limit": (429, "rate_limit_error", "Simulated: too many requests."),
    "insufficient_quota": (400, "invalid_request_error", "Simulated: your credit balance is too low."),
    "overloaded": (529, "overloaded_error", "Simulated: overloaded."),
}
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    """Find the key, or the bearer token that the SDK sends for ``auth_token``."""
    if key := headers.get(b"x-api-key", b"").strip():
        return key
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _parse(body: dict[str, Any]) -> Question:
    model, messages, limit = body.get("model"), body.get("messages"), body.get("max_tokens")
    if not isinstance(model, str) or not model:
        raise RefusedError("model: Field required", "model")
    if type(limit) is not int or limit < 1:
        raise RefusedError("max_tokens: a positive integer is required", "max_tokens")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise RefusedError("messages: at least one message is required", "messages")
    texts = [text_of(each.get("content")) for each in messages]
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].get("role") == "user"), -1)
    return Question(
        provider="anthropic",
        model=model,
        prompt="\n".join(filter(None, [text_of(body.get("system")), *texts])),
        last=texts[last],
        stream=body.get("stream") is True,
        wanted=_wanted(body),
        max_tokens=limit,
    )


def _wanted(body: dict[str, Any]) -> Wanted | None:
    """Tell which JSON the request insists on: a forced tool comes before an output format."""
    tools = {
        tool.get("name"): tool.get("input_schema")
        for tool in body.get("tools") or ()
        if isinstance(tool, dict)
    }
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        forced = choice.get("name") if choice["type"] == "tool" else next(iter(tools), None)
        if not isinstance(forced, str) or forced not in tools:
            raise RefusedError(
                f"tool_choice: {forced!r} is not among the tools of the request", "tool_choice"
            )
        return Wanted(tools[forced], forced)
    config = body.get("output_config")
    form = (config.get("format") if isinstance(config, dict) else None) or body.get("output_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        if not isinstance(form.get("schema"), dict):
            raise RefusedError("output_config.format.schema: Field required", "output_config")
        return Wanted(form["schema"])
    return None


def _blocks(answer: Answer, fingerprint: str) -> list[dict[str, Any]]:
    if answer.tool is not None:
        tool_id = f"toolu_{fingerprint[:24]}"
        return [{"type": "tool_use", "id": tool_id, "name": answer.tool, "input": answer.value}]
    return [] if answer.refused else [{"type": "text", "text": answer.text, "citations": None}]


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        **answer.usage,
    }


def _ending(answer: Answer) -> dict[str, Any]:
    refused = {"type": "refusal", "category": None, "explanation": answer.text}
    return {
        "stop_reason": _FINISH.get(answer.finish, answer.finish),
        "stop_sequence": None,
        "stop_details": refused if answer.refused else None,
    }


def _message(question: Question, fingerprint: str, **rest: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{fingerprint[:24]}",
        "type": "message",
        "role": "assistant",
        "model": question.model,
        **rest,
    }


def _body(question: Question, answer: Answer, fingerprint: str) -> dict[str, Any]:
    return _message(
        question, fingerprint, content=_blocks(answer, fingerprint), **_ending(answer), usage=_usage(answer)
    )


def _events(question: Question, answer: Answer, fingerprint: str) -> list[bytes]:
    nothing_yet = dict.fromkeys(("stop_reason", "stop_sequence", "stop_details"))
    start_usage = {**_usage(answer), "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": _message(question, fingerprint, content=[], **nothing_yet, usage=start_usage),
        },
        {"type": "ping"},
    ]
    for block in _blocks(answer, fingerprint):
        text_block = block["type"] == "text"
        empty: dict[str, Any] = {"text": ""} if text_block else {"input": {}}
        events.append({"type": "content_block_start", "index": 0, "content_block": {**block, **empty}})
        size = max(1, -(-len(answer.text) // 4))
        for i in range(0, len(answer.text), size):
            piece = answer.text[i : i + size]
            delta = (
                {"type": "text_delta", "text": piece}
                if text_block
                else {"type": "input_json_delta", "partial_json": piece}
            )
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        events.append({"type": "content_block_stop", "index": 0})
    events += [
        {"type": "message_delta", "delta": _ending(answer), "usage": _usage(answer)},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def _error(rule: Rule, request_id: str, param: str | None) -> tuple[int, dict[str, Any]]:
    fault, status, code = rule.fault, rule.status, rule.error_code
    if status is None:
        # Named in either provider's words and said in this one's.
        status, kind, message = _FAULTS[fault]
        kind = kind if rule.error_type in KNOWN_FAULTS else rule.error_type or kind
        code = None if code in KNOWN_FAULTS else code
    else:
        general = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        message = f"Simulated error {status}."
        if fault is not None and _FAULTS[fault][0] == status:
            _, general, message = _FAULTS[fault]
        kind = rule.error_type or general
    error: dict[str, Any] = {"type": kind, "message": message if rule.message is None else rule.message}
    if code is not None:
        error["details"] = {"error_code": code}
    return status, {"type": "error", "error": error, "request_id": request_id}


def _models() -> dict[str, Any]:
    data = [
        {
            "type": "model",
            "id": name,
            "display_name": f"{name} (simulated)",
            "created_at": "2025-01-01T00:00:00Z",
            "lifecycle": "active",
        }
        for name in _MODELS
    ]
    return {"data": data, "has_more": False, "first_id": _MODELS[0], "last_id": _MODELS[-1]}


ANTHROPIC = Wire("anthropic", b"request-id", _key, _parse, _body, _events, _error, _models)
