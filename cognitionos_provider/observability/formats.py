"""How a log record becomes a line: the specification's JSON (section 5), or text for a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from cognitionos_provider.observability.redaction import clean, redact
from cognitionos_provider.observability.trace_id import get_trace_id

__all__ = ["ConsoleFormatter", "JSONFormatter"]

# Where our own loggers put things on a record: all extras, also those whose names a record has for itself,
# and the redacted traceback.
FIELDS_ATTRIBUTE = "cognitionos_fields"
TRACEBACK_ATTRIBUTE = "cognitionos_traceback"

RESERVED = ("timestamp", "level", "service", "environment", "trace_id", "message")

# "color_message" is uvicorn's message once more, with terminal colours. "taskName" exists since Python 3.12.
RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "asctime",
    "color_message",
    "message",
    "taskName",
    FIELDS_ATTRIBUTE,
    TRACEBACK_ATTRIBUTE,
}


def message_of(record: logging.LogRecord) -> str:
    """The record's message, redacted. Arguments that don't fit their format are shown beside it, not lost."""
    try:
        return redact(record.getMessage())
    except Exception:  # noqa: BLE001 - an argument's __str__ may raise anything, and the line still matters
        return redact(f"{record.msg} {clean(record.args)}")


def free_name(name: str, taken: Mapping[str, object]) -> str:
    """``name``, with ``extra_`` before it as often as it takes not to be among ``taken``."""
    while name in taken:
        name = f"extra_{name}"
    return name


class JSONFormatter(logging.Formatter):
    """One line of ASCII JSON per record.

    First the specification's fields: ``timestamp`` (UTC, ISO 8601, milliseconds, ``Z``), ``level``,
    ``service``, ``environment``, ``trace_id`` (null outside of a request or run), ``message``. Then the
    record's extras in the order they were given, then ``exception`` (the traceback's text) and ``stack``. An
    extra named like one of these fields is written as ``extra_<name>``.
    """

    def __init__(self, service: str, environment: str) -> None:
        super().__init__()
        self.service = service
        self.environment = environment

    def fields(self, record: logging.LogRecord) -> tuple[dict[str, object], dict[str, object]]:
        """What the line tells, in its order, redacted, as values that JSON can hold; and the stacks."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "timestamp": moment.removesuffix("+00:00") + "Z",
            "level": record.levelname,
            "service": self.service,
            "environment": self.environment,
            "trace_id": clean(get_trace_id()),
            "message": message_of(record),
        }
        stacks: dict[str, object] = {}
        if traceback := self.traceback(record):
            stacks["exception"] = traceback
        if record.stack_info:
            stacks["stack"] = redact(record.stack_info)
        for name, value in self.extras(record).items():
            line[free_name(redact(str(name)), line | stacks)] = clean(value)
        return line, stacks

    def extras(self, record: logging.LogRecord) -> Mapping[str, object]:
        """What the caller gave beside the message."""
        own = getattr(record, FIELDS_ATTRIBUTE, None)
        if isinstance(own, Mapping):
            return own
        return {name: value for name, value in record.__dict__.items() if name not in RECORD_ATTRIBUTES}

    def traceback(self, record: logging.LogRecord) -> str | None:
        """The text of the record's traceback, redacted; None if there is none."""
        own = getattr(record, TRACEBACK_ATTRIBUTE, None)
        if isinstance(own, str):
            return own
        if record.exc_info and record.exc_info[0] is not None:
            return redact(self.formatException(record.exc_info))
        return redact(record.exc_text) if record.exc_text else None

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. ASCII, so that no terminal, file or reader can break or split it."""
        line, stacks = self.fields(record)
        return json.dumps(line | stacks)


class ConsoleFormatter(JSONFormatter):
    """The same for a person at a terminal: one line, and the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback and the stack on lines of their own."""
        line, stacks = self.fields(record)
        words = [str(line["timestamp"]), f"{line['level']!s:<8}", _printable(str(line["message"]))]
        words += [
            f"{_printable(name)}={_printable(_shown(line[name]))}" for name in line if name not in RESERVED
        ]
        if line["trace_id"] is not None:
            words.append(f"trace_id={_printable(str(line['trace_id']))}")
        return "\n".join([" ".join(words), *map(str, stacks.values())])


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    # A line end in a value could forge a line of the log, an escape sequence could steer the terminal.
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
