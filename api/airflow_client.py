"""Airflow's REST API, as far as the facade needs it."""

from __future__ import annotations

from typing import Any

import httpx

from api.problems import Problem
from cognitionos_provider.observability import get_logger

__all__ = ["AirflowClient"]

logger = get_logger(__name__)


class AirflowClient:
    """Calls Airflow in the name of the facade's callers.

    :param url: where Airflow's api-server is.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url, timeout=timeout, limits=httpx.Limits(max_connections=100, max_keepalive_connections=20)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def start_run(self, dag_id: str, run_id: str, conf: dict[str, Any], *, token: str) -> None:
        """Start a run under an id of ours. An answer that got lost can be asked for again: 409 means it runs.

        :raises Problem: 503 where Airflow can't be reached, 403 or 409 where it refuses, 422 for wrong inputs.
        """
        try:
            answer = await self._http.post(
                f"/api/v2/dags/{dag_id}/dagRuns",
                json={"dag_run_id": run_id, "logical_date": None, "conf": conf},
                headers={"Authorization": f"Bearer {token}"},
            )
        except httpx.HTTPError as error:
            logger.warning("Airflow could not be reached", extra={"url": self.url, "error": repr(error)})
            raise Problem(
                503, f"Airflow could not be reached ({type(error).__name__}); no run is known to have started", retry_after=2
            ) from error
        if answer.is_success or answer.status_code == httpx.codes.CONFLICT:
            return
        detail = _detail(answer)
        logger.warning("Airflow refused a run", extra={"status": answer.status_code, "detail": detail})
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Problem(403, f"Airflow does not let the caller start {dag_id}: {detail}")
        if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            raise Problem(422, f"Airflow does not take these inputs: {detail}", errors=[(("body", "inputs"), detail)])
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Problem(409, f"Airflow has no DAG {dag_id} any more: {detail}")
        raise Problem(503, f"Airflow answered {answer.status_code}; no run was started", retry_after=2)

    async def is_reachable(self) -> bool:
        """Whether the api-server answers."""
        try:
            return (await self._http.get("/api/v2/version", timeout=1.5)).is_success
        except httpx.HTTPError:
            return False


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    return str(detail)[:500]
