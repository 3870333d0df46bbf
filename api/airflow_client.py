"""Airflow's REST API, as far as the facade needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from api.problems import Problem
from cognitionos_provider.observability import get_logger

__all__ = ["AirflowClient", "UnknownOutcome"]

logger = get_logger(__name__)


class UnknownOutcome(Problem):
    """A request was sent to Airflow and nothing tells what came of it: the run may have started, or may yet."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one request has not given a run, as our own answer would tell it."""

    status: int
    detail: str
    errors: tuple[tuple[tuple[str, ...], str], ...] = ()
    retry_after: int | None = None
    is_certain: bool = True
    """This request has started no run, and never will."""
    ask_again: bool = False


class AirflowClient:
    """Calls Airflow in the name of the facade's callers.

    :param url: where Airflow's api-server is.
    :param timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=timeout,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def start_run(self, dag_id: str, run_id: str, conf: dict[str, Any], *, token: str) -> None:
        """Start a run under an id of ours; 409 is Airflow's answer to a run that it has already.

        :raises UnknownOutcome: Airflow may have started the run, or may yet: its answer got lost, or was a 5xx,
            which it or a proxy before it may give after the run was committed. Mostly 503; where the repeated
            request was refused, the status of that refusal.
        :raises Problem: no run was started: 503 where Airflow can't be reached, 403, 409 or 422 where it refuses.
        """
        run = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        failure = await self._ask(dag_id, run, token)
        is_certain = True
        if failure is not None and failure.ask_again:
            # The run id makes it safe. Whatever else this answer says, it says nothing about the first request.
            is_certain = False
            failure = await self._ask(dag_id, run, token)
        if failure is None:
            return
        kind, outcome = (
            (Problem, "no run was started")
            if is_certain and failure.is_certain
            else (UnknownOutcome, "a run may or may not have started")
        )
        raise kind(
            failure.status,
            f"{failure.detail}; {outcome}",
            errors=failure.errors,
            retry_after=failure.retry_after,
        )

    async def _ask(self, dag_id: str, run: dict[str, Any], token: str) -> _Failure | None:
        try:
            answer = await self._http.post(
                f"/api/v2/dags/{dag_id}/dagRuns", json=run, headers={"Authorization": f"Bearer {token}"}
            )
        except httpx.HTTPError as error:
            logger.warning("Airflow could not be reached", extra={"url": self.url, "error": repr(error)})
            return _unreached(error)
        if answer.is_success or answer.status_code == httpx.codes.CONFLICT:
            return None
        detail = _detail(answer)
        logger.warning("Airflow refused a run", extra={"status": answer.status_code, "detail": detail})
        return _refusal(dag_id, answer.status_code, detail)

    async def is_reachable(self) -> bool:
        """Whether the api-server answers."""
        return (await self._http.get("/api/v2/version")).is_success


def _unreached(error: httpx.HTTPError) -> _Failure:
    name = type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        return _Failure(503, f"Airflow could not be reached ({name})", retry_after=2)
    return _Failure(
        503,
        f"Airflow did not answer ({name})",
        retry_after=2,
        is_certain=False,
        # Mostly an idle connection that Airflow has just closed. After a timeout, Airflow has enough to do.
        ask_again=isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)),
    )


def _refusal(dag_id: str, status: int, detail: str) -> _Failure:
    match status:
        case httpx.codes.UNAUTHORIZED:
            return _Failure(
                503,
                "Airflow's api-server does not accept a token that this facade accepts; give both the same "
                "[api_auth] jwt_secret",
                retry_after=5,
            )
        case httpx.codes.FORBIDDEN:
            return _Failure(403, f"Airflow does not let the caller start {dag_id}: {detail}")
        case httpx.codes.BAD_REQUEST | httpx.codes.UNPROCESSABLE_ENTITY:
            return _Failure(422, f"Airflow refused the run: {detail}", errors=((("body", "inputs"), detail),))
        case httpx.codes.NOT_FOUND:
            return _Failure(409, f"Airflow has no DAG {dag_id} any more: {detail}")
        case _:
            broken = status >= httpx.codes.INTERNAL_SERVER_ERROR
            return _Failure(
                503, f"Airflow answered {status}", retry_after=2, is_certain=not broken, ask_again=broken
            )


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    return str(detail)[:500]
