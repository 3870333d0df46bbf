"""The processes of the benchmark as the one that measures sees them: workers, simulators, a dead port."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import httpx
from pydantic import BaseModel

from benchmarks.contenders import Entry
from benchmarks.contenders.contender import Route

__all__ = [
    "About",
    "Answers",
    "BenchError",
    "Simulator",
    "Start",
    "Worker",
    "refusing_port",
    "simulator",
    "starter",
]

_ROOT = Path(__file__).parents[1]
_OPEN_SECONDS = 60.0
_LINE_BYTES = 2**22
# What would send a call elsewhere, or change what a library does by default.
_DROPPED = ("OPENAI_", "ANTHROPIC_", "LITELLM_", "AIOHTTP_", "LLM_", "OTEL_", "LOGFIRE_")
_SET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_OFFLINE_MODE": "true",
    "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "1000",
}


class BenchError(Exception):
    """The benchmark can't go on; the message says in which process and why."""


class Answers(BaseModel):
    """What became of calls.

    ``took`` and ``seconds`` (of each call, in the order of their ends) are wall-clock times;
    ``processor_seconds`` is the processor time of the contender's process over all of them. ``answered`` counts
    by the model that answered, ``failed`` by exception, ``connections`` those opened, by port.
    """

    took: float
    processor_seconds: float
    seconds: list[float]
    answered: dict[str, int]
    failed: dict[str, int]
    connections: dict[int, int]


class About(BaseModel):
    """What a contender is: versions of packages, and settings in words."""

    contender: str
    versions: dict[str, str]
    settings: list[str]


class Worker:
    """A contender in its process."""

    def __init__(self, entry: Entry, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.entry = entry
        self.pid = process.pid
        self._process = process
        self._log = log

    async def about(self) -> About:
        """Read what the worker says of itself when it starts; to be called first, and once."""
        return About(contender=self.entry.name, **await self._answer(_OPEN_SECONDS))

    async def open(self, route: Route) -> None:
        """Make the contender's client for a route; also loads its libraries, the first time."""
        await self._tell({"do": "open", "route": asdict(route)}, _OPEN_SECONDS)

    async def ask(self, calls: int, *, at_once: int = 1, within: float = 60.0) -> Answers:
        """Make calls; none begins after ``within`` seconds."""
        command = {"do": "ask", "calls": calls, "at_once": at_once, "within": within}
        return Answers.model_validate(await self._tell(command, within + 60))

    async def _tell(self, command: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe, see worker()
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._answer(seconds)

    async def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchError(f"{self.entry.name} did not answer within {seconds:g} s") from None
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise BenchError(f"{self.entry.name} failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        return f"its process ended; its log: {self._log.read().decode(errors='replace')[-2000:]}"


Start = Callable[[Entry], AbstractAsyncContextManager[Worker]]
"""Starts a contender's process, which ends with the context, or with this process."""


def starter(interpreters: Mapping[str, Path], abouts: dict[str, About]) -> Start:
    """Return what starts workers with these interpreters, by environment; what they say of themselves is kept."""

    @asynccontextmanager
    async def start(entry: Entry) -> AsyncIterator[Worker]:
        command = [str(interpreters[entry.environment]), "-m", "benchmarks.contenders.worker"]
        with tempfile.TemporaryFile() as log:
            async with _process([*command, entry.module, entry.variant], log) as process:
                worker = Worker(entry, process, log)
                abouts[entry.name] = await worker.about()
                yield worker

    return start


class Simulator:
    """A simulator in its process, seen through its control API."""

    def __init__(self, url: str, control: httpx.AsyncClient) -> None:
        self.openai_url = f"{url}/v1"
        self.anthropic_url = url
        self._control = control

    async def start_over(self, *rules: Mapping[str, Any]) -> None:
        """Forget the calls so far, and put these rules in place of those in force."""
        for path in ("rules", "calls"):
            (await self._control.delete(path)).raise_for_status()
        (await self._control.post("rules", json=list(rules))).raise_for_status()

    async def calls_to(self, provider: str) -> int:
        """Count the calls received on a provider's wire."""
        calls = (await self._control.get("calls")).raise_for_status().json()["calls"]
        return sum(call["provider"] == provider for call in calls)

    async def max_in_flight(self) -> int:
        """Tell how many calls were being served at once, at most."""
        most: int = (await self._control.get("stats")).raise_for_status().json()["max_in_flight"]
        return most


@asynccontextmanager
async def simulator() -> AsyncIterator[Simulator]:
    """Start a simulator's process; it ends with the context, or with this process."""
    with tempfile.TemporaryFile() as log:
        async with _process([sys.executable, "-m", "benchmarks.simulator"], log) as process:
            assert process.stdout is not None  # noqa: S101
            said = (await process.stdout.readline()).decode()
            if "http://" not in said:
                log.seek(0)
                raise BenchError(
                    f"The simulator did not start:\n{log.read().decode(errors='replace')[-2000:]}"
                )
            url = said.rpartition(" ")[2].strip()
            async with httpx.AsyncClient(base_url=f"{url}/control", trust_env=False, timeout=30) as control:
                yield Simulator(url, control)


@asynccontextmanager
async def _process(command: Sequence[str], log: IO[bytes]) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=_ROOT, env=_environment(), stdin=pipe, stdout=pipe, stderr=log, limit=_LINE_BYTES
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DROPPED) and not name.lower().endswith("_proxy")
    }
    return kept | _SET


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port of this machine that refuses connections: taken, so that nobody else listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
