"""How a step's output is kept in Airflow.

As text that holds JSON. Airflow's own (de)serializers treat keys such as ``__classname__`` or ``__type`` in a nested
value as instructions, in the triggerer's supervisor and in the api-server; text is opaque to them.
"""

from __future__ import annotations

import json

from pydantic import JsonValue

from cognitionos_provider.llm.answer import clean

__all__ = ["OUTPUT_KEY", "SPENT_KEY", "decode_output", "encode_output"]

OUTPUT_KEY = "return_value"
"""The XCom of the output is the one that Airflow shows as the task's return value."""

SPENT_KEY = "cognitionos.spent"
"""The XCom with what a step on a worker has spent, in USD, as text; only in runs that have a budget."""

_PREFIX = "json:"


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
