"""Structured logs with a trace id. See ``logging`` for how to use them."""

from cognitionos_provider.observability.logging import Logger, configure_logging, get_logger
from cognitionos_provider.observability.redaction import mask_secret
from cognitionos_provider.observability.trace_id import (
    get_trace_id,
    new_trace_id,
    set_trace_id,
    trace_context,
)

__all__ = [
    "Logger",
    "configure_logging",
    "get_logger",
    "get_trace_id",
    "mask_secret",
    "new_trace_id",
    "set_trace_id",
    "trace_context",
]
