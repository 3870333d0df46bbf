"""What a step leaves in Airflow: its output, and a record of every call that it made.

The output is the task's XCom. The record of a try is an XCom, too, where the step ran in the triggerer, and in the
task state store where it ran on a worker: Airflow deletes a task's XComs when a worker starts the next try, and lets
no trigger at the task state store.

Both are text that holds JSON. Airflow's own (de)serializers treat keys such as ``__classname__`` or ``__type`` in a
nested value as instructions, in the triggerer's supervisor and in the api-server; text is opaque to them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, JsonValue

from cognitionos_provider.llm.request import Attempt

__all__ = [
    "OUTPUT_KEY",
    "RECORD_KEY_PREFIX",
    "StepRecord",
    "clean",
    "decode_output",
    "encode_output",
    "record_key",
]

OUTPUT_KEY = "return_value"
"""The XCom of the output is the one that Airflow shows as the task's return value."""

RECORD_KEY_PREFIX = "cognitionos.record."


def record_key(try_number: int) -> str:
    """Return the key of a try's record.

    Each try has its own, so that a try never hides the calls of the one before. A try may be run twice, by another
    triggerer after the first one died; it then goes on with the record that it finds.
    """
    return f"{RECORD_KEY_PREFIX}{try_number:04d}"


_PREFIX = "json:"


class StepRecord(BaseModel):
    """What one try of a step did."""

    agent_id: str = "default"
    attempts: list[Attempt] = []
    error: str | None = None
    """Why the try failed."""


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


def encode_output(value: JsonValue) -> str:
    """Return the text under which an output is stored: JSON behind a prefix, so that nothing takes it for JSON."""
    return _PREFIX + json.dumps(clean(value), separators=(",", ":"))


def decode_output(stored: object) -> JsonValue:
    """Read an output back.

    What was not stored by :func:`encode_output` (something that a user set) is given as it is.
    """
    text = stored
    if isinstance(text, str) and text.startswith(f'"{_PREFIX}'):
        # Airflow writes the XComs of a trigger's event as JSON in JSON, and only those (XComModel.set).
        text = json.loads(text)
    if isinstance(text, str) and text.startswith(_PREFIX):
        decoded: JsonValue = json.loads(text.removeprefix(_PREFIX))
        return decoded
    return stored  # type: ignore[return-value]
