"""The trace id: one text that follows a request through every log line that belongs to it.

It lives in a context variable. Each asyncio task keeps the one it was started with, and so does each thread
that was given a copy of its starter's context (``asyncio.to_thread``, ``contextvars.copy_context().run``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["get_trace_id", "new_trace_id", "set_trace_id", "trace_context"]

# structlog merges every context variable whose name starts with "structlog_" into its lines
# (``structlog.contextvars.merge_contextvars``), and Airflow logs through structlog. Under this name the trace
# id is in Airflow's task logs, also on lines that other libraries write, and structlog need not be imported.
_trace_id: ContextVar[str] = ContextVar("structlog_trace_id")


def new_trace_id() -> str:
    """A random id of 32 hexadecimal digits, which is also a W3C trace id."""
    return uuid.uuid4().hex


def set_trace_id(trace_id: str) -> None:
    """Make ``trace_id`` that of the current context (task or thread), until it is set again."""
    _trace_id.set(trace_id)


def get_trace_id() -> str | None:
    """The current context's trace id; None outside of any request or run."""
    return _trace_id.get(None)


@contextmanager
def trace_context(trace_id: str | None = None) -> Iterator[str]:
    """Within the block, ``trace_id`` (a new one when None) is the current one; afterwards, the one before."""
    token = _trace_id.set(trace_id or new_trace_id())
    try:
        yield _trace_id.get()
    finally:
        _trace_id.reset(token)
