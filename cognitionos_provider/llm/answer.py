"""An answer as a provider gave it: its text, and whether it is one."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from cognitionos_provider.llm.failure import Failure

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse

__all__ = ["clean", "flaw", "parse_object", "text_of"]

# PostgreSQL's JSON can't hold U+0000, and neither UTF-8 nor any provider takes half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean(value: Any) -> Any:
    """Return the value with each character that no database can hold replaced by U+FFFD, in keys too."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def text_of(answer: ModelResponse, *, as_object: bool = False) -> str:
    """Return the text of an answer; where an object was asked for and came as a tool's input, that as JSON."""
    if as_object and answer.tool_calls:
        return str(clean(answer.tool_calls[0].args_as_json_str()))
    return str(clean(answer.text or ""))


def flaw(answer: ModelResponse, text: str) -> Failure | None:
    """Tell why an answer that came with HTTP 200 is none; None for one that is."""
    if answer.finish_reason == "content_filter":
        return Failure("refusal", "the answer was stopped by the provider's content filter")
    if not text.strip():
        return Failure("empty_answer", f"the answer holds no text (finish reason: {answer.finish_reason})")
    return None


def parse_object(content: str, schema: dict[str, JsonValue]) -> tuple[JsonValue, str | None]:
    """Read an answer as JSON and check it; the second value says what is wrong with it, or is None.

    Models like to wrap JSON in a Markdown fence, even when told not to. A schema may take its time: run this in
    a thread.
    """
    # Imported here: definitions imports llm for the retry block, and this module is part of llm's face.
    from cognitionos_provider.definitions.schema import value_violations

    text = content.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0]
    try:
        value: JsonValue = clean(json.loads(text))
    except (ValueError, RecursionError) as error:
        return None, f"it is not JSON ({error})"
    if problems := value_violations(schema, value):
        where = ".".join(map(str, problems[0].loc))
        return None, f"{where}: {problems[0].msg}" if where else problems[0].msg
    return value, None
