"""Structured logs.

::

    from cognitionos_provider.observability import get_logger, set_trace_id

    set_trace_id("req-abc-123")
    logger = get_logger(__name__)
    logger.info("Workflow created", extra={"workflow_id": "wf-123", "version": "1.0.0"})
    logger.info("Workflow created", workflow_id="wf-123", version="1.0.0")    # the same

``get_logger`` configures nothing, so it may be used inside Airflow's processes, where Airflow owns logging
and shows the extras and the trace id in its own format. ``configure_logging`` takes over a process's logs:
the facade and our commands call it, once, after Airflow was imported (importing Airflow configures logging).
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from cognitionos_provider.observability.formats import (
    FIELDS_ATTRIBUTE,
    RECORD_ATTRIBUTES,
    RESERVED,
    TRACEBACK_ATTRIBUTE,
    ConsoleFormatter,
    JSONFormatter,
    free_name,
    message_of,
)
from cognitionos_provider.observability.redaction import clean, mask_secret, redact

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from cognitionos_provider.config import Config

    _Exception: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
    _ExceptionArgument: TypeAlias = bool | _Exception | tuple[None, None, None] | BaseException | None

__all__ = ["Logger", "configure_logging", "get_logger"]

# What structlog's processors, Airflow's among them, read from an event for themselves.
_STRUCTLOG_KEYS = dict.fromkeys(
    (*RESERVED, "event", "logger", "logger_name", "exc_info", "stack_info", "positional_args", "_record")
)


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A standard logger that takes extras both as ``extra={...}`` and as keywords.

    Message, extras and traceback are redacted before any handler sees them, whoever configured it. Any name
    may be used for an extra in ``extra``, also one of ``logging.LogRecord``'s own such as ``name``.
    """

    def log(  # type: ignore[override]  # positional, so that "level" may be an extra
        self,
        level: int,
        msg: object,
        /,
        *args: object,
        exc_info: _ExceptionArgument = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **fields: object,
    ) -> None:
        """Log ``msg % args`` at ``level`` with the extras; all other methods of the logger end here."""
        if not self.isEnabledFor(level):
            return
        message = message_of(logging.LogRecord(self.name, level, "", 0, msg, args, None))
        given = {redact(str(name)): clean(value) for name, value in {**(extra or {}), **fields}.items()}
        # Handlers that know nothing of ours (a test's, an error tracker's) find extras where they always are.
        attributes = {name: value for name, value in given.items() if name not in RECORD_ATTRIBUTES}
        attributes[FIELDS_ATTRIBUTE] = given
        exception = _exception(exc_info)
        if exception:
            raw = "".join(traceback.format_exception(*exception)).rstrip("\n")
            attributes[TRACEBACK_ATTRIBUTE] = shown = redact(raw)
            if shown != raw:
                # Airflow would render the exception itself, with the secret. It gets the redacted text.
                exception = None
                given = {**given, free_name("exception", given): shown}
        with _structlog_fields(given):
            self.logger.log(
                level,
                message,
                exc_info=exception,
                stack_info=stack_info,
                stacklevel=stacklevel + 1,
                extra=attributes,
            )


def _exception(argument: _ExceptionArgument) -> _Exception | None:
    if isinstance(argument, BaseException):
        return type(argument), argument, argument.__traceback__
    found = argument if isinstance(argument, tuple) else sys.exc_info() if argument else None
    return found if found and found[0] is not None else None


def _structlog_fields(fields: Mapping[str, object]) -> AbstractContextManager[None]:
    """Show extras in Airflow's logs, which drop a standard record's extras but merge structlog's context."""
    context = sys.modules.get("structlog.contextvars")
    if context is None or not fields:
        return nullcontext()
    # Airflow's triggerer finds a line's log file by keys that it has bound: none may be replaced.
    bound = context.get_contextvars() | _STRUCTLOG_KEYS
    manager: AbstractContextManager[None] = context.bound_contextvars(
        **{free_name(name, bound): value for name, value in fields.items()}
    )
    return manager


def get_logger(name: str) -> Logger:
    """The logger of this name. It configures nothing: where Airflow owns logging, it stays the owner."""
    return Logger(logging.getLogger(name))


def configure_logging(config: Config, *, level: str | None = None, stream: TextIO | None = None) -> None:
    """Send all logs of this process through one handler, in ``OBSERVABILITY_LOG_FORMAT``.

    For the facade and our commands; never inside an Airflow process. Calling it again replaces what it did.
    ``level`` (default: ``OBSERVABILITY_LOG_LEVEL``) is a name such as ``info``; the facade gives its
    ``API_LOG_LEVEL``. Lines go to ``stream``, by default standard error: standard output is a command's own.
    uvicorn must be started with ``log_config=None``, or it configures its own logs again.
    """
    for secret in config.secret_values():
        mask_secret(secret)
    observability = config.observability
    formatter = ConsoleFormatter if observability.log_format == "console" else JSONFormatter
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(observability.service_name, observability.environment))
    root = logging.getLogger()
    for previous in list(root.handlers):
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel((level or observability.log_level).upper())
    _unhook_named_loggers()
    _route_structlog()
    logging.captureWarnings(True)


def _unhook_named_loggers() -> None:
    # A named logger that writes to the console itself would show its lines twice, or in another format;
    # importing Airflow silences uvicorn.access.
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).propagate = True
    known = logging.getLogger().manager.loggerDict.values()
    for logger in [logger for logger in known if isinstance(logger, logging.Logger)]:
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
                logger.propagate = True


def _route_structlog() -> None:
    """Send what Airflow's modules log through structlog to the standard loggers of the same names."""
    if "structlog" not in sys.modules:
        return
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _as_standard_call,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _as_standard_call(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[object], dict[str, object]]:
    keywords = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    message = event.pop("event", "")
    for name in ("trace_id", "logger_name"):
        event.pop(name, None)
    return (message,), {**keywords, "extra": {FIELDS_ATTRIBUTE: dict(event)}}
