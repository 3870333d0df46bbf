"""A simulator for the whole run, routers that talk to it, time that is not slept, servers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from budget_shop import Shop, opened
from services import redis_url

from cognitionos_provider.llm import LLMRequest, LLMRouter, create_llm_router
from cognitionos_provider.llm.breaker import BreakerSettings
from cognitionos_provider.simulator import SimulatorServer

OPENAI_KEY = "sk-openai-secret-0123456789"
ANTHROPIC_KEY = "sk-ant-secret-9876543210"


class Time:
    """A clock that runs with the real one and jumps ahead where somebody would sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def clock(self) -> float:
        return time.monotonic() + sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(scope="session")
def _simulator() -> Iterator[SimulatorServer]:
    with SimulatorServer() as server:
        yield server


@pytest.fixture
def sim(_simulator: SimulatorServer) -> SimulatorServer:
    _simulator.reset()
    return _simulator


@pytest.fixture
def at() -> Time:
    return Time()


MakeRouter = Callable[..., LLMRouter]


@pytest.fixture
async def make_router(sim: SimulatorServer, at: Time) -> AsyncIterator[MakeRouter]:
    """Make routers that talk to the simulator with both keys, unless told otherwise."""
    routers: list[LLMRouter] = []

    def make(**changes: Any) -> LLMRouter:
        settings: dict[str, Any] = {
            "openai_api_key": OPENAI_KEY,
            "anthropic_api_key": ANTHROPIC_KEY,
            "openai_base_url": sim.openai_base_url,
            "anthropic_base_url": sim.anthropic_base_url,
            "clock": at.clock,
            "sleep": at.sleep,
            "tries_per_model": 1,
            # Never opens: breakers have tests of their own.
            "breaker": BreakerSettings(consecutive=1_000, window_calls=1_000),
            # The longest of the waits that jitter may choose.
            "chance": lambda: 1.0,
        }
        routers.append(create_llm_router(**{**settings, **changes}))
        return routers[-1]

    yield make
    for router in routers:
        await router.aclose()


@pytest.fixture
async def router(make_router: MakeRouter) -> LLMRouter:
    router = make_router()
    await router.warm_up()
    return router


@pytest.fixture
def ask() -> Callable[..., LLMRequest]:
    """Make requests to the models named."""

    def make(*models: str, **fields: Any) -> LLMRequest:
        message = {"role": "user", "content": "Hello!"}
        return LLMRequest.model_validate({"messages": [message], "models": models, **fields})

    return make


@pytest.fixture
def seen(sim: SimulatorServer) -> Callable[[], dict[str, int]]:
    """Count the calls that each provider got."""
    return lambda: dict(Counter(call["provider"] for call in sim.calls()))


@pytest.fixture
def refused() -> Iterator[str]:
    """A base URL that refuses connections, for as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
def received() -> list[bytes]:
    """The bodies that the servers of ``serve`` were sent."""
    return []


@pytest.fixture
async def serve(received: list[bytes]) -> AsyncIterator[Serve]:
    """Start servers that give everybody the same answer, or none, for what the simulator can't say."""
    async with AsyncExitStack() as stack:

        async def start(body: bytes | None, status: str = "200 OK", *headers: str) -> str:
            head = "\r\n".join((f"HTTP/1.1 {status}", f"content-length: {len(body or b'')}", *headers))

            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
                received.append(await reader.readexactly(sum(lengths)))
                if body is None:
                    await reader.read()
                else:
                    writer.write(head.encode() + b"\r\n\r\n" + body)
                    await writer.drain()
                writer.close()

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            stack.callback(server.close)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty Redis database, for a module of tests."""
    with redis_url() as url:
        yield url


@pytest.fixture
async def shop(server: str, at: Time) -> AsyncIterator[Shop]:
    """Processes that share budgets through that Redis."""
    async with opened(server, at.clock) as shop:
        yield shop
