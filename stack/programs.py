"""What runs in the local stack, and how to see that each part works."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import httpx

from stack.program import Program
from stack.settings import Settings

__all__ = ["local_programs"]


def local_programs(settings: Settings) -> list[Program]:
    """Return Airflow's four processes, the facade, and the simulator where no LLM provider is configured."""
    airflow = (sys.executable, "-m", "airflow")
    # One client for all: making one reads certificates, which takes longer than the request. No proxy of the
    # user's stands between us and this machine.
    client = httpx.Client(timeout=5, trust_env=False, verify=False)  # noqa: S501 - there is no TLS here
    health = f"{settings.airflow_url}/api/v2/monitor/health"

    def beats(component: str) -> _Heartbeat:
        return _Heartbeat(client, health, component)

    programs = [
        Program("api-server", (*airflow, "api-server"), _Answers(client, health)),
        # The log servers of these two listen on every address of the machine. Here all parts see the same
        # files, and the api-server reads a log from there.
        Program("scheduler", (*airflow, "scheduler", "--skip-serve-logs"), beats("scheduler")),
        Program("triggerer", (*airflow, "triggerer", "--skip-serve-logs"), beats("triggerer")),
        Program("dag-processor", (*airflow, "dag-processor"), beats("dag_processor")),
        Program("facade", (sys.executable, "-m", "api"), _Answers(client, f"{settings.url}/health")),
    ]
    if settings.simulated:
        module = (sys.executable, "-m", "cognitionos_provider.simulator")
        address = ("--host", "127.0.0.1", "--port", str(settings.simulator_port))
        ready = _Answers(client, f"{settings.simulator_url}/control/stats")
        programs.insert(0, Program("simulator", (*module, *address), ready, backing=True, stop_seconds=2))
    return programs


class _Answers:
    """Whether an address answers 200."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def __call__(self, since: datetime) -> bool:
        return _get(self._client, self._url) is not None


class _Heartbeat:
    """Whether a part of Airflow has given a sign of life, by the api-server's word, since it was started.

    Its word "healthy" alone may tell of a process of an earlier stack, for half a minute after its end
    (``airflow/api/common/airflow_health.py``).
    """

    def __init__(self, client: httpx.Client, url: str, component: str) -> None:
        self._client = client
        self._url = url
        self._component = component

    def __call__(self, since: datetime) -> bool:
        response = _get(self._client, self._url)
        if response is None:
            return False
        found: dict[str, Any] = response.json()[self._component]
        beat = found.get(f"latest_{self._component}_heartbeat")
        return found["status"] == "healthy" and beat is not None and datetime.fromisoformat(beat) >= since


def _get(client: httpx.Client, url: str) -> httpx.Response | None:
    try:
        response = client.get(url)
    except httpx.TransportError:
        return None
    return response if response.status_code == 200 else None
