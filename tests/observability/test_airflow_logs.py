"""Inside a process whose logging Airflow has configured, as in its triggerer and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import io, logging, sys
import airflow.settings
from structlog.contextvars import bind_contextvars, get_contextvars
import structlog
from cognitionos_provider.observability import *

logger = get_logger("cognitionos_provider.triggers.step")
mask_secret("airflow-log-canary")
bind_contextvars(trigger_id=7)
set_trace_id("req-1")
handlers = list(logging.root.handlers)
logger.info("asked %s", "gpt", extra={"provider": "openai", "trigger_id": 8, "event": "e", "level": "gold"})
try:
    raise RuntimeError("airflow-log-canary")
except RuntimeError:
    logger.exception("leaky", extra={"key": "airflow-log-canary"})
logger.error("harmless", exc_info=ValueError("shown"))
logging.getLogger("other").info("of another library")
bound = get_contextvars()
print("UNCHANGED", logging.root.handlers == handlers, sorted(bound), bound["trigger_id"])

from cognitionos_provider.config import get_config
configure_logging(get_config())
structlog.get_logger("airflow.api").warning("native", name="n")
logger.info("ours", name="n")
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    home: Path = tmp_path_factory.mktemp("airflow")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "OBSERVABILITY_", "API_"))}
    environment = {**clean, "AIRFLOW_HOME": str(home), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def line(output: subprocess.CompletedProcess[str], text: str) -> str:
    [found] = [line for line in output.stdout.splitlines() if text in line]
    return found


def test_airflows_line_shows_message_extras_and_trace_id(output: subprocess.CompletedProcess[str]) -> None:
    found = line(output, "asked gpt")
    assert "[info" in found
    assert "[cognitionos_provider.triggers.step]" in found
    assert "provider=openai" in found
    assert "trace_id=req-1" in found


def test_an_extra_replaces_nothing_that_airflow_has_bound(output: subprocess.CompletedProcess[str]) -> None:
    found = line(output, "asked gpt")
    assert " trigger_id=7" in found
    assert "extra_trigger_id=8" in found
    assert "extra_event=e" in found
    assert "extra_level=gold" in found


def test_lines_of_other_libraries_carry_the_trace_id_too(output: subprocess.CompletedProcess[str]) -> None:
    assert "trace_id=req-1" in line(output, "of another library")


def test_airflow_never_sees_a_secret_not_even_in_an_exception(
    output: subprocess.CompletedProcess[str],
) -> None:
    assert "canary" not in output.stdout + output.stderr
    assert "key=***" in line(output, "leaky")
    assert "RuntimeError: ***" in output.stdout
    assert "ValueError: shown" in output.stdout


def test_logging_leaves_airflows_configuration_and_context_as_they_were(
    output: subprocess.CompletedProcess[str],
) -> None:
    assert line(output, "UNCHANGED") == "UNCHANGED True ['trace_id', 'trigger_id'] 7"


def test_configured_logging_takes_over_from_airflow_and_its_own_lines_follow(
    output: subprocess.CompletedProcess[str],
) -> None:
    native, ours = (json.loads(line) for line in output.stderr.splitlines() if line.startswith("{"))
    assert (native["message"], native["level"], native["trace_id"]) == ("native", "WARNING", "req-1")
    assert native["name"] == "n"
    assert (ours["message"], ours["name"]) == ("ours", "n")
    assert "native" not in output.stdout
