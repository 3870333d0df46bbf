"""What was asked and what is answered, in words that both providers' wire formats are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cognitionos_provider.simulator.rules import Rule
from cognitionos_provider.simulator.schema import SchemaError, instance

__all__ = ["Answer", "Question", "RefusedError", "Wanted", "Wire", "compose", "text_of", "tokens"]

_ECHO = 80


class RefusedError(Exception):
    """The provider refuses this request. ``param`` names the field at fault, if one is."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclass(frozen=True, slots=True)
class Wanted:
    """JSON that the caller insists on, as a tool's input or as text; without a schema any object will do."""

    schema: Mapping[str, Any] | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One request for an answer."""

    provider: str
    model: str
    prompt: str
    """All text of the request, the system's too."""
    last: str
    """The last user message."""
    stream: bool = False
    stream_usage: bool = True
    wanted: Wanted | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says. ``finish`` is "stop", "length", "tool", "refusal", or a rule's own word."""

    text: str
    finish: str
    input_tokens: int
    output_tokens: int
    refused: bool = False
    tool: str | None = None
    value: Any = None
    """The tool's input; ``text`` is the same as JSON."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Further usage fields, as the provider names them."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A provider's wire format."""

    provider: str
    id_header: bytes
    """The response header that carries the request's id."""
    key: Callable[[Mapping[bytes, bytes]], bytes]
    """Headers of the request -> the API key in them, empty if there is none."""
    parse: Callable[[dict[str, Any]], Question]
    """The request's body -> the question; raises RefusedError."""
    body: Callable[[Question, Answer, str], dict[str, Any]]
    """Question, answer and fingerprint -> the body of the response."""
    events: Callable[[Question, Answer, str], list[bytes]]
    """The same as server-sent events."""
    error: Callable[[Rule, str, str | None], tuple[int, dict[str, Any]]]
    """A rule's error fields, the request's id, the request field at fault -> status and body of the error."""
    models: Callable[[], dict[str, Any]]
    """The body that lists the models."""


def tokens(text: str) -> int:
    """Return the tokens in a text: a quarter of its bytes in UTF-8, at least one."""
    return max(1, len(text.encode("utf-8", "surrogatepass")) // 4)


def text_of(content: Any) -> str:
    """Return the text in a message's content: a string, a part or a list of parts. Images count nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(text_of, content)))
    if isinstance(content, dict):
        if "input" in content:
            return json.dumps(content["input"])
        return text_of(content.get("text") or content.get("content"))
    return ""


def compose(question: Question, rule: Rule | None) -> Answer:
    """Make the answer, always the same for the same question and rule.

    Raises:
        RefusedError: the schema that the caller insists on can't be satisfied.
    """
    rule = rule or Rule()
    wanted = question.wanted
    finish, tool, value = "stop", None, None
    if rule.refusal:
        finish = "refusal"
        text = f"{_label(question)} declined" if rule.answer is None else rule.answer
    elif rule.answer is not None:
        text = rule.answer
    elif rule.has_answer_json or wanted is not None:
        value = rule.answer_json if rule.has_answer_json else _satisfying(question)
        text = _json(value)
        if wanted is not None and wanted.tool is not None:
            finish, tool = "tool", wanted.tool
    else:
        text = _echo(question)
        if question.max_tokens is not None and tokens(text) > question.max_tokens:
            finish = "length"
            text = text.encode("utf-8", "replace")[: 4 * question.max_tokens].decode("utf-8", "ignore")
    usage = dict(rule.usage or {})
    return Answer(
        text=text,
        finish=rule.finish_reason or finish,
        input_tokens=usage.pop("input_tokens", tokens(question.prompt)),
        output_tokens=usage.pop("output_tokens", tokens(text)),
        refused=rule.refusal,
        tool=tool,
        value=value,
        usage=usage,
    )


def _label(question: Question) -> str:
    return f"[simulated {question.provider}:{question.model}]"


def _echo(question: Question) -> str:
    digest = hashlib.sha256(question.last.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    echo = " ".join(question.last[:_ECHO].split())
    return f"{_label(question)} {digest} {echo}".rstrip()


def _satisfying(question: Question) -> Any:
    schema = question.wanted.schema if question.wanted else None
    if not schema:
        return {"simulated": True, "answer": _echo(question)}
    try:
        return instance(schema)
    except SchemaError as error:
        raise RefusedError(f"Invalid schema: {error}") from error


def _json(value: Any) -> str:
    """Write JSON as a model would, in plain characters; a lone surrogate can only be written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
