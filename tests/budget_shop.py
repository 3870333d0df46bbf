"""For tests of budgets: a ledger, calls, and processes whose way to Redis can be cut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis

from cognitionos_provider.exceptions import BudgetExceededError
from cognitionos_provider.llm.budget import Budget, Budgets, Reservation
from cognitionos_provider.llm.purse import Purse
from cognitionos_provider.llm.shared import SharedState

NONE = Decimal(0)
_PROJECT = Path(__file__).parents[1]


class Ledger:
    """What was paid so far; counts how often it is asked."""

    def __init__(self, total: str = "0") -> None:
        self.total = Decimal(total)
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def spent(self) -> Decimal:
        self.asked += 1
        total, error = self.total, self.error
        await self.open.wait()
        if error is not None:
            raise error
        return total

    async def pay(self, reservation: Reservation, cost: str) -> None:
        self.total += Decimal(cost)
        await reservation.settle(Decimal(cost))


def run(limit: str, ledger: Ledger | None = None, key: str = "execution/{7}") -> Budget:
    return Budget(key, Decimal(limit), "the run's budget", ledger and ledger.spent)


async def reserve(
    budgets: Budgets, budget: Budget | list[Budget], amount: str, seconds: float = 0, hold: float = 60
) -> Reservation:
    several = budget if isinstance(budget, list) else [budget]
    return await budgets.reserve(
        several, Decimal(amount), call_id=uuid4().hex, timeout=seconds, hold_seconds=hold
    )


async def refused(budgets: Budgets, budget: Budget | list[Budget], amount: str, seconds: float = 0) -> str:
    begun = time.monotonic()
    with pytest.raises(BudgetExceededError) as caught:
        await reserve(budgets, budget, amount, seconds)
    if "waited" not in str(caught.value):
        assert time.monotonic() - begun < 5
    return str(caught.value)


async def until(happened: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.001)


async def left_is(budgets: Budgets, budget: Budget, amount: str) -> None:
    """Check that exactly this amount can be reserved now, and give it back."""
    more = Decimal(amount) + Decimal("0.000001")
    await refused(budgets, budget, str(more))
    await (await reserve(budgets, budget, amount)).settle(NONE)


def purse_of(budgets: Budgets, budget: Budget) -> Purse:
    return budgets._books._purses[budget.key]


def waiting(budgets: Budgets, budget: Budget) -> int:
    purse = budgets._books._purses.get(budget.key)
    return len(purse.waiting) if purse else 0


class Wire:
    """The way to Redis, which can be cut (``refuse``), fall silent (``hang``) or lag."""

    def __init__(self, url: str) -> None:
        self.redis = urlsplit(url)
        self.state = "up"
        self.lag = 0.0
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self.redis._replace(netloc=f"127.0.0.1:{port}").geturl()

    def turn(self, state: str) -> None:
        self.state = state
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.state == "up":
                there = await asyncio.open_connection(self.redis.hostname, self.redis.port)
                self._open.add(there[1])
                await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
            elif self.state == "hang":
                await reader.read()
        except OSError:
            pass
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self.lag)
            writer.write(data)
        writer.close()

    async def stop(self) -> None:
        self.turn("refuse")
        self._server.close()


class Shop:
    """Makes budgets as several processes would have them, and looks into Redis."""

    def __init__(self, url: str, wire: Wire, clock: Callable[[], float]) -> None:
        self.url, self.wire, self.clock = url, wire, clock
        self.prefix = f"test-{uuid4().hex}:"
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.states: list[SharedState] = []
        self.near: list[SharedState] = []

    def process(self, url: str | None = None, timeout: float = 2.0) -> Budgets:
        state = SharedState(url or self.url, prefix=self.prefix, timeout_seconds=timeout, clock=self.clock)
        state.connect()
        self.states.append(state)
        if url is None:
            self.near.append(state)
        return Budgets(shared=state, clock=self.clock)

    def far_process(self, timeout: float = 2.0) -> Budgets:
        """A process whose way to Redis is the wire."""
        return self.process(self.wire.url, timeout)

    def hash(self, key: str = "execution/{7}") -> dict[str, str]:
        return self.redis.hgetall(f"{self.prefix}budget/{key}")

    def number(self, field: str) -> int:
        return int(self.hash().get(field, 0))

    def flush(self) -> None:
        # Not the claim that keeps other test processes out of this database.
        for key in self.redis.keys(f"{self.prefix}*"):
            self.redis.delete(key)


@asynccontextmanager
async def opened(url: str, clock: Callable[[], float]) -> AsyncIterator[Shop]:
    """A shop on this Redis, which is left as it was."""
    wire = Wire(url)
    await wire.start()
    shop = Shop(url, wire, clock)
    try:
        yield shop
        # Only the wire makes Redis fail: a step that Redis refuses is a mistake of ours.
        assert not [state for state in shop.near if state.down]
    finally:
        for state in shop.states:
            await state.aclose()
        await wire.stop()
        shop.flush()
        shop.redis.close()


async def spawn(program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, cwd=_PROJECT
    )
