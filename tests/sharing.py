"""For tests of what processes share through Redis: other processes, a Redis that stops to answer, patience."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from cognitionos_provider.llm.shared import SharedState


class Counted(SharedState):
    """Counts the scripts that are run."""

    runs = 0

    async def run(self, *arguments: Any) -> Any:
        self.runs += 1
        return await super().run(*arguments)


async def eventually(check: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = check()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


class Proxy:
    """Stands before Redis; while ``answers`` is not set, requests pass and answers do not."""

    def __init__(self, url: str) -> None:
        self.redis = urlsplit(url)
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server_reader, server_writer = await asyncio.open_connection(self.redis.hostname, self.redis.port)
            tasks.add(asyncio.create_task(copy(reader, server_writer)))
            tasks.add(asyncio.create_task(copy(server_reader, writer, self.answers)))

        async def copy(
            source: asyncio.StreamReader, target: asyncio.StreamWriter, allowed: asyncio.Event | None = None
        ) -> None:
            try:
                while data := await source.read(65_536):
                    if allowed is not None:
                        await allowed.wait()
                    target.write(data)
            except OSError:
                pass
            finally:
                target.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        user, at, _ = self.redis.netloc.rpartition("@")
        self.url = self.redis._replace(netloc=f"{user}{at}{address}").geturl()
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


Share = Callable[..., Counted]


@asynccontextmanager
async def sharers(redis: str) -> AsyncIterator[Share]:
    """Make what different processes would have: each its own connections to one Redis."""
    async with AsyncExitStack() as stack:

        def make(url: str = redis, **changes: float) -> Counted:
            shared = Counted(url, **changes)
            shared.connect()
            stack.push_async_callback(shared.aclose)
            return shared

        yield make
