from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from pydantic import SecretStr

from cognitionos_provider.config import Config
from cognitionos_provider.observability import (
    configure_logging,
    get_logger,
    mask_secret,
    set_trace_id,
    trace_context,
)
from cognitionos_provider.observability.formats import JSONFormatter

Lines = Callable[[], list[dict[str, Any]]]
FIELDS = ["timestamp", "level", "service", "environment", "trace_id", "message"]

logger = get_logger("tests.flows")


# --- the line


def test_a_line_is_the_specifications_example_field_for_field(lines: Lines, stream: io.StringIO) -> None:
    with trace_context("before"):
        set_trace_id("req-abc-123")
        logger.info("Workflow created", extra={"workflow_id": "wf-123", "version": "1.0.0"})
    assert re.fullmatch(
        r'\{"timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "level": "INFO", '
        r'"service": "cognitionos-v3", "environment": "production", "trace_id": "req-abc-123", '
        r'"message": "Workflow created", "workflow_id": "wf-123", "version": "1.0.0"\}\n',
        stream.getvalue(),
    )


def test_the_time_is_utc_in_milliseconds_also_at_a_full_second() -> None:
    record = logging.LogRecord("other", logging.INFO, "", 0, "m", None, None)
    record.created = 1771045200.0
    assert json.loads(JSONFormatter("s", "e").format(record))["timestamp"] == "2026-02-14T05:00:00.000Z"


def test_a_line_outside_of_a_request_has_null_as_trace_id(lines: Lines) -> None:
    logger.info("m")
    assert list(lines()[0]) == FIELDS
    assert lines()[0]["trace_id"] is None


def test_extras_may_be_given_as_keywords_too(lines: Lines) -> None:
    logger.warning("%s of %d", "one", 2, extra={"a": 1}, b=[2], level="gold")
    [line] = lines()
    assert (line["level"], line["message"]) == ("WARNING", "one of 2")
    assert list(line)[6:] == ["a", "b", "extra_level"]
    assert (line["a"], line["b"], line["extra_level"]) == (1, [2], "gold")


def test_an_extra_cannot_overwrite_a_field(lines: Lines) -> None:
    logger.info("m", extra=dict.fromkeys((*FIELDS, "extra_level"), "forged"))
    [line] = lines()
    assert list(line) == [*FIELDS, *(f"extra_{name}" for name in FIELDS), "extra_extra_level"]
    assert line["message"] == "m"
    assert line["level"] == "INFO"
    assert line["extra_level"] == line["extra_extra_level"] == "forged"


def test_an_extra_may_be_named_like_an_attribute_of_a_log_record(lines: Lines) -> None:
    logger.info("m", extra={"name": "n", "args": "a", "module": "o", "asctime": "t", "exc_info": "e"})
    assert list(lines()[0].items())[6:] == [
        ("name", "n"),
        ("args", "a"),
        ("module", "o"),
        ("asctime", "t"),
        ("exc_info", "e"),
    ]


def test_extras_of_other_libraries_loggers_are_in_the_line(lines: Lines) -> None:
    logging.getLogger("other").info(
        "m", extra={"size": Path("/x"), "timestamp": "forged", "color_message": "c"}
    )
    assert list(lines()[0].items())[6:] == [("size", "/x"), ("extra_timestamp", "forged")]


def test_nothing_that_is_logged_breaks_a_line(lines: Lines, stream: io.StringIO) -> None:
    nasty = "a\x00b\ud800c\r\nd\u2028e\x85f"
    logger.info(nasty, extra={nasty: nasty, "o": object})
    assert stream.getvalue().isascii()
    [line] = lines()
    assert line["message"] == "a\ufffdb\ufffdc\r\nd\u2028e\x85f"
    assert line[line["message"]] == line["message"]
    assert line["o"] == "<class 'object'>"


def test_arguments_that_do_not_fit_the_message_are_shown_beside_it(lines: Lines) -> None:
    logger.info("%d steps", "many")
    assert [line["message"] for line in lines()] == ["%d steps ['many']"]
    record = logging.LogRecord("other", logging.INFO, "", 0, "%s", (1, 2), None)
    assert json.loads(JSONFormatter("s", "e").format(record))["message"] == "%s [1, 2]"


def test_a_percent_sign_in_a_message_without_arguments_is_just_that(lines: Lines) -> None:
    logger.info("100%s")
    logger.info("%s", "100%s")
    assert [line["message"] for line in lines()] == ["100%s", "100%s"]


# --- exceptions


def test_an_exception_is_one_text_at_the_end_of_the_line(lines: Lines) -> None:
    try:
        _ = {}["key"]
    except KeyError:
        logger.exception("Lookup failed", step="extract")
    [line] = lines()
    assert list(line) == [*FIELDS, "step", "exception"]
    assert line["level"] == "ERROR"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("KeyError: 'key'")


def test_an_exception_may_be_given_as_object_or_tuple(lines: Lines) -> None:
    error = ValueError("v")
    logger.error("m", exc_info=error)
    logger.error("m", exc_info=(ValueError, error, None))
    logging.getLogger("other").error("m", exc_info=error)
    assert [line["exception"] for line in lines()] == ["ValueError: v"] * 3


def test_no_exception_is_told_where_there_is_none(lines: Lines) -> None:
    logger.error("m", exc_info=True)  # noqa: LOG014
    logger.exception("m")  # noqa: LOG004
    logging.getLogger("other").exception("m")  # noqa: LOG004
    assert [list(line) for line in lines()] == [FIELDS] * 3


def test_an_extra_named_exception_does_not_hide_the_exception(lines: Lines) -> None:
    logger.error("m", exc_info=ValueError("v"), extra={"exception": "mine"})
    logger.info("m", extra={"exception": "mine"})
    first, second = lines()
    assert (first["exception"], first["extra_exception"]) == ("ValueError: v", "mine")
    assert second["exception"] == "mine"


def test_the_callers_place_is_recorded_and_its_stack_on_request(
    lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger().addHandler(caplog.handler)
    logger.info("m", stack_info=True, workflow_id="wf-1")
    [record] = caplog.records
    assert record.funcName == "test_the_callers_place_is_recorded_and_its_stack_on_request"
    assert record.filename == "test_logging.py"
    assert record.workflow_id == "wf-1"  # type: ignore[attr-defined]
    assert lines()[0]["stack"].startswith("Stack (most recent call last):\n")


# --- secrets


def test_secrets_are_masked_in_message_extras_and_traceback(
    lines: Lines, stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    canaries = {
        "LLM_OPENAI_API_KEY": "sk-log-canary-1",
        "LLM_ANTHROPIC_API_KEY": "sk-log-canary-2",
        "DB_PASSWORD": "log canary/3",
        "REDIS_PASSWORD": "log-canary-4",
        "RABBITMQ_PASSWORD": "log-canary-5",
        "CELERY_BROKER_URL": "redis://:log-canary-6@h/0",
    }
    config = settings(**canaries)
    configure_logging(config, stream=stream)
    told = [*canaries.values(), "log-canary-6", config.database.url]
    for own in (logger, logging.getLogger("other")):
        for secret in told:
            own.info(f"in {secret}", extra={"e": {secret: [secret, Path(f"/{secret}")]}})
            own.info("by %s", secret)
            own.error("x", exc_info=RuntimeError(secret))
    assert len(lines()) == 2 * 3 * len(told)
    assert "canary" not in stream.getvalue()
    assert lines()[0]["message"] == "in ***"
    assert lines()[2]["exception"] == "RuntimeError: ***"


def test_configuring_masks_the_secrets_of_settings_that_were_made_by_hand(
    stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    config = settings()
    llm = config.llm.model_copy(update={"openai_api_key": SecretStr("by-hand-canary")})
    configure_logging(config.model_copy(update={"llm": llm}), stream=stream)
    logger.info("by-hand-canary")
    assert json.loads(stream.getvalue())["message"] == "***"


def test_our_loggers_mask_before_anothers_handler_sees_the_record(caplog: pytest.LogCaptureFixture) -> None:
    mask_secret("foreign-handler-canary")
    with caplog.at_level("INFO"):
        logger.info("m %s", "foreign-handler-canary", extra={"e": "foreign-handler-canary"})
        logger.error("m", exc_info=RuntimeError("foreign-handler-canary"))
        logger.error("m", exc_info=RuntimeError("harmless"))
    assert "foreign-handler-canary" not in caplog.text
    assert not any("foreign-handler-canary" in repr(record.__dict__) for record in caplog.records)
    assert "RuntimeError: harmless" in caplog.text


# --- trace ids


async def test_each_task_and_thread_logs_its_own_trace_id(lines: Lines) -> None:
    ready = asyncio.Barrier(3)

    async def request(trace_id: str) -> None:
        set_trace_id(trace_id)
        await ready.wait()
        logger.info(trace_id)
        await asyncio.to_thread(logger.info, trace_id)

    await asyncio.gather(*map(request, ("a", "b", "c")))
    thread = threading.Thread(target=logger.info, args=("none",))
    thread.start()
    thread.join()
    ours = [line for line in lines() if line["level"] == "INFO"]
    assert len(ours) == 7
    assert all(line["trace_id"] == (None if line["message"] == "none" else line["message"]) for line in ours)


def test_a_trace_id_from_a_caller_cannot_break_a_line(lines: Lines) -> None:
    with trace_context('x"\n\x00\ud800'):
        logger.info("m")
    assert lines()[0]["trace_id"] == 'x"\n\ufffd\ufffd'


# --- whose logs


def test_getting_a_logger_and_logging_configures_nothing() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("tests.untouched").handlers
    get_logger("tests.untouched").info("m")
    assert (root.level, list(root.handlers), logging.getLogger("tests.untouched").handlers) == before


def test_configuring_again_replaces_what_was_before(lines: Lines, settings: Callable[..., Config]) -> None:
    second = io.StringIO()
    configure_logging(settings(OBSERVABILITY_SERVICE_NAME="flows"), level="warning", stream=second)
    logger.info("hidden")
    logger.warning("shown")
    assert lines() == []
    assert [json.loads(line)["service"] for line in second.getvalue().splitlines()] == ["flows"]


def test_the_settings_level_counts_unless_one_is_given(
    stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    config = settings(OBSERVABILITY_LOG_LEVEL="error")
    configure_logging(config, stream=stream)
    logger.warning("hidden")
    assert stream.getvalue() == ""
    configure_logging(config, level="debug", stream=stream)
    logger.debug("shown")
    assert "shown" in stream.getvalue()


def test_lines_go_to_standard_error_and_leave_standard_output_to_the_command(
    settings: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(settings())
    logger.info("m")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["message"] == "m"


def test_a_message_below_the_level_is_not_even_formatted(lines: Lines) -> None:
    shown = []

    class Costly:
        def __str__(self) -> str:
            shown.append(self)
            return "costly"

    logging.getLogger().setLevel("INFO")
    logger.debug("%s", Costly(), extra={"e": Costly()})
    assert lines() == []
    assert shown == []


def test_uvicorns_and_httpx_lines_come_out_in_the_same_form_and_once(
    stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # As the command line of uvicorn does it before it loads the app.
        uvicorn.Config(app)
        assert logging.getLogger("uvicorn").handlers
        configure_logging(settings(), level="info", stream=stream)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        listening.listen()
        thread.start()
        httpx.get(f"http://127.0.0.1:{listening.getsockname()[1]}/path", timeout=30)
        server.should_exit = True
        thread.join()

    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert len([message for message in messages if "GET /path HTTP/1.1" in message and "204" in message]) == 1
    assert len([message for message in messages if message.startswith("HTTP Request: GET")]) == 1
    assert len([message for message in messages if message.startswith("Finished server process")]) == 1
    assert all(list(json.loads(line)) == FIELDS for line in stream.getvalue().splitlines())


def test_uvicorns_access_log_which_airflow_silences_is_heard_again(
    stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    configure_logging(settings(), stream=stream)
    access.info("GET /")
    assert json.loads(stream.getvalue())["message"] == "GET /"


def test_a_named_loggers_own_console_handler_goes_and_its_file_stays(
    stream: io.StringIO, settings: Callable[..., Config], tmp_path: Path
) -> None:
    named = logging.getLogger("tests.with_handlers")
    named.propagate = False
    named.addHandler(logging.StreamHandler(sys.stdout))
    file = logging.FileHandler(tmp_path / "log")
    named.addHandler(file)
    configure_logging(settings(), stream=stream)
    named.warning("m")
    file.close()
    assert named.handlers == [file]
    assert json.loads(stream.getvalue())["message"] == "m"
    assert (tmp_path / "log").read_text() == "m\n"


def test_warnings_and_structlog_lines_come_out_in_the_same_form(lines: Lines) -> None:
    warnings.warn("old thing", UserWarning, stacklevel=1)
    with trace_context("req-1"), structlog.contextvars.bound_contextvars(dag_id="d"):
        structlog.get_logger("airflow.x", logger_name="airflow.x").info("%s ran", "it", name="n")
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            structlog.get_logger("airflow.x").exception("failed")
    warning, info, error = lines()
    assert "old thing" in warning["message"]
    assert set(info) == {*FIELDS, "dag_id", "name"}
    assert (info["message"], info["trace_id"], info["dag_id"], info["name"]) == ("it ran", "req-1", "d", "n")
    assert error["level"] == "ERROR"
    assert error["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.usefixtures("settings")
def test_logs_work_and_load_no_structlog_in_a_process_that_has_none() -> None:
    program = (
        "import sys; from cognitionos_provider.config import get_config;"
        "from cognitionos_provider.observability import configure_logging, get_logger;"
        "configure_logging(get_config()); get_logger('x').info('m', a=1);"
        "print('structlog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert list(json.loads(done.stderr)) == [*FIELDS, "a"]


# --- for a terminal


def test_the_console_form_is_one_line_with_extras_and_the_traceback_below(
    stream: io.StringIO, settings: Callable[..., Config]
) -> None:
    configure_logging(settings(OBSERVABILITY_LOG_FORMAT="console"), stream=stream)
    with trace_context("req-1"):
        logger.info("Größe\n\x1b[31m", extra={"n": [1, "ü"], "message": "x y"})
    logger.error("failed", exc_info=ValueError("v"), exception="mine")
    first, second, below = stream.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    assert re.sub(stamp, "", first) == (
        'INFO     Größe\\n\\x1b[31m n=[1, "ü"] extra_message=x y trace_id=req-1'
    )
    assert re.sub(stamp, "", second) == "ERROR    failed extra_exception=mine"
    assert below == "ValueError: v"
