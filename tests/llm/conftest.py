"""A simulator for the whole run, routers that talk to it, time that is not slept, and servers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cognitionos_provider.llm import LLMRequest, LLMRouter, create_llm_router
from cognitionos_provider.simulator import SimulatorServer

OPENAI_KEY = "sk-openai-secret-0123456789"
ANTHROPIC_KEY = "sk-ant-secret-9876543210"
MODELS = {"openai": "openai:gpt-4", "anthropic": "anthropic:claude-3-haiku-20240307"}


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


def ask(*models: str, **fields: Any) -> LLMRequest:
    return LLMRequest.model_validate(
        {"messages": [{"role": "user", "content": "Hello!"}], "models": models, **fields}
    )


def chain_from(provider: str) -> tuple[str, str]:
    """The models of both providers, ``provider`` first."""
    other = "anthropic" if provider == "openai" else "openai"
    return MODELS[provider], MODELS[other]


def seen(sim: SimulatorServer) -> dict[str, int]:
    """How many calls each provider got."""
    return dict(Counter(call["provider"] for call in sim.calls()))


@pytest.fixture
def refused() -> Iterator[str]:
    """A base URL that refuses connections, for as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[str]:
    """A server that sends the same bytes to whoever asks, or nothing at all, for what the simulator can't say."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
        await reader.readexactly(length)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def http_answer(body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


Recorded = list[Any]
AsyncRecorder = Callable[[Any], Awaitable[None]]
