from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from cognitionos_provider.config import Config, get_config
from cognitionos_provider.observability import configure_logging

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Give back the process's logging as it was found."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    names = ("uvicorn", "uvicorn.access", "uvicorn.error", "httpx")
    named = {
        name: (logging.getLogger(name).propagate, list(logging.getLogger(name).handlers)) for name in names
    }
    settings = structlog.get_config()
    showwarning = warnings.showwarning
    # Airflow, which another test may have imported, hushes it.
    httpx_level = logging.getLogger("httpx").level
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    yield
    logging.getLogger("httpx").setLevel(httpx_level)
    logging.captureWarnings(False)
    warnings.showwarning = showwarning
    structlog.configure(**settings)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, (propagate, handlers) in named.items():
        logging.getLogger(name).propagate = propagate
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Config]]:
    for name in [name for name in os.environ if name.startswith(("OBSERVABILITY_", "API_"))]:
        monkeypatch.delenv(name)

    def settings(**variables: str) -> Config:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        get_config.cache_clear()
        return get_config()

    yield settings
    get_config.cache_clear()


@pytest.fixture
def lines(stream: io.StringIO, settings: Callable[..., Config]) -> Lines:
    """Configure JSON logs at level debug; call it for all lines so far."""
    config = settings(OBSERVABILITY_ENVIRONMENT="production", OBSERVABILITY_LOG_LEVEL="debug")
    configure_logging(config, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
