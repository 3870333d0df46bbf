"""What routes ask for: a database session, the settings, the Airflow client, and who is calling.

With ``airflow_client`` and ``airflow_db`` the only files of the facade that know Airflow. The auth manager is
Airflow's own, in this process: it verifies Airflow's tokens and decides, so there is no second user database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

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
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from jwt.exceptions import InvalidTokenError
from sqlalchemy import create_engine, make_url
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
    "session_factory",
]


@cache
def session_factory() -> sessionmaker[Session]:
    """Return the maker of sessions on Airflow's metadata database.

    :raises ConfigurationError: ``DB_*`` names another database than Airflow's: the tables live beside Airflow's.
    """
    url = make_url(conf.get_mandatory_value("database", "sql_alchemy_conn"))
    if wanted := get_config().database.url:
        other = make_url(wanted)
        if (other.host, other.port or 5432, other.database) != (url.host, url.port or 5432, url.database):
            raise ConfigurationError(
                f"DB_* names the database {other.database!r} at {other.host}, and Airflow's metadata database is "
                f"{url.database!r} at {url.host}; the facade's tables live in Airflow's: unset DB_*, or set it to that"
            )
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 30}
    else:
        options |= {"pool_size": 20, "max_overflow": 20, "pool_timeout": 10}
    return sessionmaker(create_engine(url, **options), expire_on_commit=False)


def get_session() -> Iterator[Session]:
    """Lend a session for one request. Routes commit; what they did not commit is rolled back."""
    with session_factory()() as session:
        yield session


@cache
def _auth_manager() -> Any:
    return init_auth_manager()


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
                method=method, user=self.user, access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id)
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
            raise Problem(403, f"{self.user_id} may not define workflows; that takes the right to edit variables")


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
    try:
        user = await _auth_manager().get_user_from_token(credentials.credentials)
    except InvalidTokenError as error:
        raise Problem(401, "The token is not valid, or has expired; get a new one from Airflow's /auth/token") from error
    return Caller(user, credentials.credentials)


def get_airflow(request: Request) -> AirflowClient:
    """Return the client to Airflow's REST API, which lives as long as the app."""
    client: AirflowClient = request.app.state.airflow
    return client


SessionDep = Annotated[Session, Depends(get_session)]
ConfigDep = Annotated[Config, Depends(get_config)]
CallerDep = Annotated[Caller, Depends(get_caller)]
AirflowDep = Annotated[AirflowClient, Depends(get_airflow)]
