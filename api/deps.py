"""What routes ask for: a database session, the settings, the Airflow client, and who is calling.

With ``airflow_client`` and ``airflow_db`` the only files of the facade that know Airflow. The auth manager is
Airflow's own, in this process: it verifies Airflow's tokens and decides, so there is no second user database.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    DagAccessEntity,
    DagDetails,
    VariableDetails,
)
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.configuration import conf
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from jwt.exceptions import InvalidTokenError
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from api.airflow_client import AirflowClient
from api.problems import Problem
from cognitionos_provider.config import Config, get_config
from cognitionos_provider.exceptions import ConfigurationError

__all__ = [
    "AirflowDep",
    "Caller",
    "CallerDep",
    "ConfigDep",
    "SessionDep",
    "authentication_is_off",
    "heartbeat_thresholds",
    "in_session",
    "session_factory",
]

T = TypeVar("T")


@cache
def session_factory() -> sessionmaker[Session]:
    """Return the maker of sessions on Airflow's metadata database.

    :raises ConfigurationError: ``DB_*`` names another database than Airflow's.
    """
    url = make_url(conf.get_mandatory_value("database", "sql_alchemy_conn"))
    if wanted := get_config().database.url:
        other = make_url(wanted)
        if _place(other) != _place(url):
            raise ConfigurationError(
                f"DB_* names {_shown(other)}, and Airflow's metadata database is {_shown(url)}; the facade's "
                "tables live beside Airflow's: unset DB_*, or set it to that"
            )
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 30}
    else:
        # As many as there are threads for requests. A server that is gone is no reason to wait for minutes.
        options |= {
            "pool_size": 20,
            "max_overflow": 20,
            "pool_timeout": 10,
            "connect_args": {"connect_timeout": 5},
        }
    return sessionmaker(create_engine(url, **options), expire_on_commit=False)


def _place(url: URL) -> tuple[str, str, int, str | None]:
    """Return what tells two databases apart, whatever the driver and the user."""
    host = str(url.host or url.query.get("host") or "localhost")
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return url.get_backend_name(), host, url.port or 5432, url.database


def _shown(url: URL) -> str:
    at = f" at {url.host}:{url.port or 5432}" if url.host else ""
    return f"the {url.get_backend_name()} database {url.database!r}{at}"


def get_session() -> Iterator[Session]:
    """Lend a session for one request. Routes commit; what they did not commit is rolled back."""
    with session_factory()() as session:
        yield session


async def in_session(work: Callable[[Session], T]) -> T:
    """Do database work in a thread, in a session of its own that is committed at its end."""

    def run() -> T:
        with session_factory().begin() as session:
            return work(session)

    return await run_in_threadpool(run)


@cache
def _auth_manager() -> Any:
    return init_auth_manager()


@cache
def _auth_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop, in a thread of its own, on which tokens are verified.

    Airflow's auth managers say ``async``, and ask the database (for revoked tokens) without awaiting it. On
    the loop of the requests, a database that hangs would stop everything, ``/health`` included.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="auth", daemon=True).start()
    return loop


def authentication_is_off() -> bool:
    """Whether Airflow lets everybody in as an admin (the simple auth manager's local mode)."""
    return isinstance(_auth_manager(), SimpleAuthManager) and conf.getboolean(
        "core", "simple_auth_manager_all_admins"
    )


def heartbeat_thresholds() -> dict[str, float]:
    """Return after how many seconds without a sign of life Airflow takes each of its processes for dead."""
    return {
        "scheduler": conf.getfloat("scheduler", "scheduler_health_check_threshold"),
        "triggerer": conf.getfloat("triggerer", "triggerer_health_check_threshold"),
        "dag_processor": conf.getfloat("dag_processor", "health_check_threshold"),
    }


@dataclass(frozen=True)
class Caller:
    """Who sent the request, and what Airflow's auth manager lets them do."""

    user: Any = field(repr=False)
    token: str = field(repr=False)
    """A token that Airflow's REST API takes in this caller's name."""

    @property
    def user_id(self) -> str:
        """The user's name, as Airflow shows it."""
        return str(self.user.get_name())

    def may(self, method: Literal["GET", "POST"], dag_id: str) -> bool:
        """Whether the caller may read (``GET``) or start (``POST``) runs of a DAG."""
        return bool(
            _auth_manager().is_authorized_dag(
                method=method,
                user=self.user,
                access_entity=DagAccessEntity.RUN,
                details=DagDetails(id=dag_id),
            )
        )

    def require(self, method: Literal["GET", "POST"], dag_id: str) -> None:
        """Raise a 403 unless the caller may do this with a DAG."""
        if not self.may(method, dag_id):
            verb = "read" if method == "GET" else "start"
            raise Problem(403, f"{self.user_id} may not {verb} runs of {dag_id}")

    def may_author(self) -> bool:
        """Whether the caller may define workflows.

        A definition spends money and runs code, so it takes more than the right to start a run: the right to
        edit Airflow's variables (role Op of the simple auth manager).
        """
        return bool(
            _auth_manager().is_authorized_variable(method="PUT", user=self.user, details=VariableDetails())
        )

    def require_authoring(self) -> None:
        """Raise a 403 unless the caller may define workflows."""
        if not self.may_author():
            raise Problem(
                403, f"{self.user_id} may not define workflows; that takes the right to edit variables"
            )


class _AnonymousAdmin:
    """The caller where authentication is off, with a token that is made anew before it expires."""

    LIFETIME = 3600

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._caller: Caller | None = None
        self._until = 0.0

    def get(self) -> Caller:
        with self._lock:
            if self._caller is None or time.monotonic() > self._until:
                user = SimpleAuthManagerUser(username="Anonymous", role="ADMIN")
                token = _auth_manager().generate_jwt(user, expiration_time_in_seconds=self.LIFETIME)
                self._caller = Caller(user, token)
                self._until = time.monotonic() + self.LIFETIME / 2
            return self._caller


_anonymous_admin = _AnonymousAdmin()
_bearer = HTTPBearer(auto_error=False, description="A token of Airflow's /auth/token")


async def get_caller(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Return who is calling; a 401 where that is unknown."""
    if credentials is None:
        if authentication_is_off():
            return _anonymous_admin.get()
        raise Problem(401, "A token is needed: send 'Authorization: Bearer <token of Airflow's /auth/token>'")
    verified = asyncio.run_coroutine_threadsafe(
        _auth_manager().get_user_from_token(credentials.credentials), _auth_loop()
    )
    try:
        user = await asyncio.wrap_future(verified)
    except InvalidTokenError as error:
        raise Problem(
            401, "The token is not valid, or has expired; get a new one from Airflow's /auth/token"
        ) from error
    return Caller(user, credentials.credentials)


def get_airflow(request: Request) -> AirflowClient:
    """Return the client to Airflow's REST API, which lives as long as the app."""
    client: AirflowClient = request.app.state.airflow
    return client


SessionDep = Annotated[Session, Depends(get_session)]
ConfigDep = Annotated[Config, Depends(get_config)]
CallerDep = Annotated[Caller, Depends(get_caller)]
AirflowDep = Annotated[AirflowClient, Depends(get_airflow)]
