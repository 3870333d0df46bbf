"""The application: routes, middleware, error answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware

from api.airflow_client import AirflowClient
from api.deps import session_factory
from api.middleware import BodyLimitMiddleware, ErrorMiddleware, TraceMiddleware
from api.probes import Probes
from api.problems import install_handlers
from api.routes import executions, health, workflows
from api.schemas import ProblemDocument
from cognitionos_provider import __version__
from cognitionos_provider.config import Config, get_config
from cognitionos_provider.observability import configure_logging, get_logger

__all__ = ["create_app"]

logger = get_logger(__name__)

DESCRIPTION = (
    "Post a workflow of LLM steps as data and run it as an Apache Airflow DAG. "
    "Errors are RFC 9457 problem documents."
)

PROBLEM: dict[str, Any] = {
    "description": "A problem document",
    "content": {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}},
}


def create_app(config: Config | None = None) -> FastAPI:
    """Return the facade as an ASGI application.

    :raises ConfigurationError: a setting is malformed, or names another database than Airflow's.
    """
    config = config or get_config()
    # After Airflow's import, which sets up the root logger for itself.
    configure_logging(config, level=config.api.log_level)
    session_factory()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.airflow = AirflowClient(config.api.airflow_url)
        app.state.probes = Probes(config, app.state.airflow)
        logger.info("Facade started", extra={"airflow_url": config.api.airflow_url})
        yield
        await app.state.airflow.aclose()

    app = FastAPI(
        title="CognitionOS for Airflow",
        version=__version__,
        description=DESCRIPTION,
        debug=False,
        lifespan=lifespan,
        responses={"default": PROBLEM},
    )
    install_handlers(app)
    for routes in (executions, workflows, health):
        app.include_router(routes.router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, limit=config.api.max_request_size)
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    if config.api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.api.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "X-Request-ID", "Retry-After"],
        )
    app.add_middleware(TraceMiddleware)
    return app
