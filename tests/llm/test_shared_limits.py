"""Limits that several processes share through Redis."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from redis import Redis
from services import redis_url
from sharing import Proxy, Share, eventually, python, sharers

from cognitionos_provider.llm.connection import Limits
from cognitionos_provider.llm.limits import Gates, NoRoomError, Permit
from cognitionos_provider.llm.shared import _CONNECTIONS

KEY = "openai/gpt-4"
ONE = Limits(max_in_flight=1)


def enter(
    gates: Gates, limits: Limits, tokens: int = 0, timeout: float = 60
) -> AbstractAsyncContextManager[Permit]:
    return gates.enter(KEY, limits, tokens=tokens, group="run", timeout=timeout, hold_seconds=60)


async def warm_up(gates: Gates) -> None:
    """Have the connection opened and the scripts loaded, so that nothing but the answer to a script is awaited."""
    async with enter(gates, Limits(max_in_flight=10, tokens_per_minute=10**9), tokens=1) as permit:
        permit.used(2)


async def waits(gates: Gates, limits: Limits, tokens: int = 0) -> float:
    """Tell how long a call would have to wait for its slot."""
    with pytest.raises(NoRoomError) as caught:
        async with enter(gates, limits, tokens, timeout=0):
            pass
    return caught.value.wait


@pytest.fixture
def redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


@pytest.fixture
def stored(redis: str) -> Iterator[Redis]:
    with Redis.from_url(redis, decode_responses=True) as client:
        yield client


@pytest.fixture
async def proxy(redis: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis).running() as proxy:
        yield proxy


@pytest.fixture
async def share(redis: str) -> AsyncIterator[Share]:
    async with sharers(redis) as share:
        yield share


def leases(stored: Redis) -> int:
    return int(stored.zcard(f"cognitionos:in-flight:{KEY}"))


def due(stored: Redis) -> list[float]:
    """Tell when the two rates will have earned what was spent, in seconds from now."""
    seconds, microseconds = stored.time()
    rates = stored.hmget(f"cognitionos:rates:{KEY}", "requests", "tokens")
    return [float(rate or 0) - seconds - microseconds / 1e6 for rate in rates]


async def test_places_in_flight_are_those_of_all(share: Share, stored: Redis) -> None:
    fleet = [Gates(shared=share()) for _ in range(3)]
    inside, most = 0, 0

    async def call(gates: Gates) -> None:
        nonlocal inside, most
        async with enter(gates, Limits(max_in_flight=4)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.005)
            inside -= 1

    await asyncio.gather(*(call(gates) for gates in fleet * 10))
    assert most == 4
    assert leases(stored) == 0


async def test_a_call_without_a_place_among_all_is_told_so_in_time(share: Share, stored: Redis) -> None:
    one, other = Gates(shared=share()), Gates(shared=share())
    async with enter(one, ONE):
        begun = time.monotonic()
        with pytest.raises(NoRoomError, match="max_in_flight of 1"):
            async with enter(other, ONE, timeout=0.2):
                pass
        assert 0.2 <= time.monotonic() - begun < 1
        waiting = asyncio.create_task(enter(other, ONE).__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
    async with asyncio.timeout(1):
        await waiting
    assert leases(stored) == 1


async def test_rates_are_those_of_all(share: Share) -> None:
    one, other = Gates(shared=share()), Gates(shared=share())
    limits = Limits(requests_per_minute=20, tokens_per_minute=6_000)
    async with enter(one, limits, tokens=1_200):
        pass
    async with enter(other, limits, tokens=0):
        pass
    # Two requests at once are a tenth, and one slot comes every 3 s; the tokens take longer.
    assert await waits(other, limits) == pytest.approx(3, abs=1)
    assert await waits(other, limits, tokens=10) == pytest.approx(12 + 0.1 - 6, abs=1)
    assert await waits(one, limits, tokens=10) == pytest.approx(12 + 0.1 - 6, abs=1)


async def test_what_a_call_really_took_is_known_to_all(share: Share) -> None:
    one, other = Gates(shared=share()), Gates(shared=share())
    limits = Limits(tokens_per_minute=600)
    async with enter(one, limits, tokens=6_000) as permit:
        assert await waits(other, limits, tokens=60) > 500
        permit.used(120)
    assert await waits(other, limits, tokens=60) == pytest.approx(12, abs=1)


async def test_a_slot_is_slept_for_and_then_taken(share: Share) -> None:
    gates, limits = Gates(shared=share()), Limits(requests_per_minute=600)
    begun = time.monotonic()
    for _ in range(63):
        async with enter(gates, limits):
            pass
    assert 0.29 < time.monotonic() - begun < 1.5


async def test_redis_is_asked_for_nothing_where_there_is_no_limit(share: Share) -> None:
    gates = Gates(shared=(shared := share()))
    async with enter(gates, Limits()) as permit:
        permit.used(1_000)
    assert shared.runs == 0


async def test_what_is_stored_goes_away_when_nobody_calls(share: Share, stored: Redis) -> None:
    gates = Gates(shared=share())
    async with enter(gates, Limits(max_in_flight=1, tokens_per_minute=60), tokens=600):
        assert 60 < stored.ttl(f"cognitionos:in-flight:{KEY}") <= 65
        assert 600 < stored.ttl(f"cognitionos:rates:{KEY}") <= 661


async def test_the_place_of_a_process_that_was_killed_is_free_again(
    redis: str, share: Share, stored: Redis
) -> None:
    code = """if True:
        import asyncio, sys
        from cognitionos_provider.llm import limits
        from cognitionos_provider.llm.connection import Limits
        from cognitionos_provider.llm.shared import SharedState

        limits._MARGIN_SECONDS = 0.5

        async def main():
            shared = SharedState(sys.argv[1], timeout_seconds=5)
            shared.connect()
            one = Limits(max_in_flight=1)
            gates = limits.Gates(shared=shared)
            async with gates.enter(sys.argv[2], one, tokens=0, group="run", timeout=9, hold_seconds=0.5):
                print(flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    two, gates = Limits(max_in_flight=2), Gates(shared=share())
    with python(code, redis, KEY) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        process.kill()
    begun = time.monotonic()
    async with enter(gates, two, timeout=0):
        assert leases(stored) == 2
        async with enter(gates, two, timeout=5):
            assert 0.5 < time.monotonic() - begun < 2
            assert leases(stored) == 2


async def test_a_call_that_is_cancelled_while_redis_answers_gives_its_slot_and_place_back(
    proxy: Proxy, share: Share, stored: Redis
) -> None:
    gates = Gates(shared=share(proxy.url, timeout_seconds=5))
    for limits, taken in (
        (Limits(requests_per_minute=6), lambda: due(stored)[0] > 0),
        (ONE, lambda: leases(stored) == 1),
    ):
        await warm_up(gates)
        proxy.answers.clear()
        calling = asyncio.create_task(enter(gates, limits).__aenter__())
        await eventually(taken)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert taken()
        proxy.answers.set()
        await eventually(lambda taken=taken: not taken(), seconds=1)


async def test_a_call_that_is_cancelled_before_its_slot_comes_gives_it_back(
    share: Share, stored: Redis
) -> None:
    gates, limits = Gates(shared=share()), Limits(tokens_per_minute=600)
    async with enter(gates, limits, tokens=600):
        pass
    before = due(stored)[1]
    calling = asyncio.create_task(enter(gates, limits, tokens=600).__aenter__())
    await eventually(lambda: due(stored)[1] > before + 50)
    calling.cancel()
    await eventually(lambda: due(stored)[1] <= before, seconds=1)


async def test_a_call_that_gets_no_place_gives_its_slot_back(share: Share, stored: Redis) -> None:
    one, other = Gates(shared=share()), Gates(shared=share())
    limits = Limits(max_in_flight=1, tokens_per_minute=600)
    async with enter(one, ONE):
        calling = asyncio.create_task(enter(other, limits, tokens=60, timeout=0.2).__aenter__())
        await eventually(lambda: due(stored)[1] > 4)
        with pytest.raises(NoRoomError, match="max_in_flight of 1"):
            await calling
        await eventually(lambda: due(stored)[1] <= 0, seconds=1)


async def test_a_call_leaves_though_it_is_cancelled_twice(share: Share, stored: Redis) -> None:
    gates = Gates(shared=(shared := share()))
    entered = asyncio.Event()

    async def call() -> None:
        async with enter(gates, ONE):
            entered.set()
            await asyncio.sleep(60)

    calling = asyncio.create_task(call())
    await entered.wait()
    for _ in range(_CONNECTIONS):  # all are in use
        await shared._places.acquire()
    calling.cancel()
    await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    for _ in range(_CONNECTIONS):
        shared._places.release()
    async with enter(gates, ONE, timeout=1):
        assert leases(stored) == 1


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def hold_the_limits(gates: Gates) -> None:
    limits = Limits(max_in_flight=1, tokens_per_minute=600)
    async with enter(gates, limits, tokens=60, timeout=5) as permit:
        with pytest.raises(NoRoomError, match="max_in_flight of 1"):
            async with enter(gates, limits, timeout=0.2):
                pass
        permit.used(600)
    assert await waits(gates, limits, tokens=60) == pytest.approx(60, abs=3)


async def test_without_an_answer_each_process_has_the_limits_for_itself(
    caplog: pytest.LogCaptureFixture, share: Share
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and it does not listen: connections are refused
        await hold_the_limits(Gates(shared=share(f"redis://127.0.0.1:{bound.getsockname()[1]}")))
    assert len(warnings(caplog)) == 1


async def test_a_redis_that_hangs_holds_nobody_up_for_long(
    caplog: pytest.LogCaptureFixture, proxy: Proxy, share: Share, stored: Redis
) -> None:
    gates = Gates(shared=share(proxy.url, timeout_seconds=0.1, retry_seconds=1))
    async with enter(gates, ONE):
        proxy.answers.clear()
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.5
    await hold_the_limits(gates)
    assert len(warnings(caplog)) == 1

    proxy.answers.set()

    async def shared_again() -> bool:
        async with enter(gates, Limits(max_in_flight=5)):
            return leases(stored) == 1

    await eventually(shared_again, seconds=5)


async def test_a_place_that_redis_gave_without_saying_so_is_given_back(
    proxy: Proxy, share: Share, stored: Redis
) -> None:
    gates = Gates(shared=share(proxy.url, timeout_seconds=0.2, retry_seconds=0.1))
    await warm_up(gates)
    proxy.answers.clear()
    async with enter(gates, ONE):
        await eventually(lambda: leases(stored) == 1)
        proxy.answers.set()
        await asyncio.sleep(0.15)  # until Redis is asked again
    assert leases(stored) == 0
