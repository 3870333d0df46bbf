from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from services import redis_url
from sharing import Proxy

from cognitionos_provider.llm.shared import SharedState, SharedStateDown, to_the_end

COUNT = "return redis.call('INCR', KEYS[1])"


@pytest.fixture
def redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


@pytest.fixture
async def proxy(redis: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis).running() as proxy:
        yield proxy


async def test_any_number_of_callers_at_once_is_no_failure_of_redis(redis: str) -> None:
    shared = SharedState(redis, timeout_seconds=5)
    shared.connect()
    answers = await asyncio.gather(*(shared.run(COUNT, ["count"]) for _ in range(2_000)))
    assert sorted(answers) == list(range(1, 2_001))
    await shared.aclose()


async def test_a_redis_that_hangs_is_waited_for_once_however_many_ask(proxy: Proxy) -> None:
    shared = SharedState(proxy.url, timeout_seconds=0.1)
    shared.connect()
    proxy.answers.clear()
    begun = time.monotonic()
    asked = (shared.run(COUNT, ["count"]) for _ in range(500))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {SharedStateDown}
    assert time.monotonic() - begun < 0.4
    await shared.aclose()


async def test_one_caller_tries_whether_redis_is_back_while_the_others_go_on(
    caplog: pytest.LogCaptureFixture, proxy: Proxy
) -> None:
    caplog.set_level(logging.INFO)
    shared = SharedState(proxy.url, timeout_seconds=0.2, retry_seconds=0.05)
    shared.connect()
    proxy.answers.clear()
    with pytest.raises(SharedStateDown):
        await shared.run(COUNT, ["count"])
    await asyncio.sleep(0.05)
    trial = asyncio.create_task(shared.run(COUNT, ["count"]))
    await asyncio.sleep(0)
    begun = time.monotonic()
    with pytest.raises(SharedStateDown):
        await shared.run(COUNT, ["count"])
    assert time.monotonic() - begun < 0.02
    proxy.answers.set()
    await trial
    assert not shared.down
    assert [record.levelname for record in caplog.records if "Redis" in record.message] == ["WARNING", "INFO"]
    await shared.aclose()


async def test_work_goes_on_without_its_caller_and_is_undone() -> None:
    goes_on, undone = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def work() -> str:
        await goes_on.wait()
        return "done"

    async def undo(what: str) -> None:
        undone.set_result(what)

    caller = asyncio.create_task(to_the_end(work(), undo))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    goes_on.set()
    async with asyncio.timeout(1):
        assert await undone == "done"
