"""Airflow's REST API, as far as the facade needs it."""

from __future__ import annotations

from typing import Any

import httpx

from api.problems import Problem
from cognitionos_provider.observability import get_logger

__all__ = ["AirflowClient", "UnknownOutcome"]

logger = get_logger(__name__)


class UnknownOutcome(Problem):
    """A request was sent to Airflow and its answer got lost: the run may have started, or may yet."""


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

        :raises UnknownOutcome: 503, Airflow may have started the run, or may yet.
        :raises Problem: no run was started: 503 where Airflow can't be reached or is broken, 403, 409 or 422
            where it refuses.
        """
        path, run = (
            f"/api/v2/dags/{dag_id}/dagRuns",
            {"dag_run_id": run_id, "logical_date": None, "conf": conf},
        )
        try:
            try:
                answer = await self._post(path, run, token)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                # An idle connection that Airflow has just closed; the run id makes it safe to ask again.
                answer = await self._post(path, run, token)
        except httpx.HTTPError as error:
            logger.warning("Airflow could not be reached", extra={"url": self.url, "error": repr(error)})
            name = type(error).__name__
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
                raise Problem(
                    503, f"Airflow could not be reached ({name}); no run was started", retry_after=2
                ) from error
            raise UnknownOutcome(
                503, f"Airflow did not answer ({name}); a run may or may not have started", retry_after=2
            ) from error
        if not answer.is_success and answer.status_code != httpx.codes.CONFLICT:
            raise self._refusal(dag_id, answer)

    async def _post(self, path: str, body: dict[str, Any], token: str) -> httpx.Response:
        return await self._http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})

    @staticmethod
    def _refusal(dag_id: str, answer: httpx.Response) -> Problem:
        detail = _detail(answer)
        logger.warning("Airflow refused a run", extra={"status": answer.status_code, "detail": detail})
        match answer.status_code:
            case httpx.codes.UNAUTHORIZED:
                return Problem(
                    503,
                    "Airflow's api-server does not accept a token that this facade accepts; do both have the "
                    "same [api_auth] jwt_secret? No run was started",
                    retry_after=5,
                )
            case httpx.codes.FORBIDDEN:
                return Problem(403, f"Airflow does not let the caller start {dag_id}: {detail}")
            case httpx.codes.BAD_REQUEST | httpx.codes.UNPROCESSABLE_ENTITY:
                return Problem(
                    422, f"Airflow refused the run: {detail}", errors=[(("body", "inputs"), detail)]
                )
            case httpx.codes.NOT_FOUND:
                return Problem(409, f"Airflow has no DAG {dag_id} any more: {detail}")
            case status:
                return Problem(503, f"Airflow answered {status}; no run was started", retry_after=2)

    async def is_reachable(self) -> bool:
        """Whether the api-server answers."""
        return (await self._http.get("/api/v2/version")).is_success


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    return str(detail)[:500]
