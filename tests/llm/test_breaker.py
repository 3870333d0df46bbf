from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis
from services import redis_url
from sharing import Proxy, Share, eventually, python, sharers

from cognitionos_provider.llm.breaker import Admission, Breakers, BreakerSettings

KEY = "openai/gpt-4"
ALLOWED, PROBE = Admission(allowed=True), Admission(allowed=True, probe=True)


async def fail(breakers: Breakers, times: int) -> float:
    seconds = 0.0
    for _ in range(times):
        seconds = await breakers.failed(KEY, probe=False)
    return seconds


@pytest.fixture
def redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


@pytest.fixture
async def share(redis: str) -> AsyncIterator[Share]:
    async with sharers(redis) as share:
        yield share


def stored(url: str) -> dict[str, str]:
    with Redis.from_url(url, decode_responses=True) as client:
        return client.hgetall(f"cognitionos:breaker:{KEY}")


async def test_an_opening_is_seen_by_everybody(share: Share) -> None:
    one, other = Breakers(shared=share()), Breakers(shared=share())
    assert await other.admit(KEY) == ALLOWED
    assert await fail(one, 5) == pytest.approx(5, abs=0.5)
    await eventually(lambda: _refused(other), seconds=1)
    assert other.state(KEY) == "open"


async def _refused(breakers: Breakers) -> bool:
    return not (await breakers.admit(KEY)).allowed


async def test_failures_in_a_row_are_those_of_all(share: Share) -> None:
    one, other = Breakers(shared=share()), Breakers(shared=share())
    await fail(one, 2)
    await fail(other, 2)
    assert await fail(one, 1) > 0


async def test_an_opening_is_seen_by_another_process_within_a_second(redis: str, share: Share) -> None:
    breakers = Breakers(shared=share())
    assert await breakers.admit(KEY) == ALLOWED
    code = """if True:
        import asyncio, sys, time
        from cognitionos_provider.llm.breaker import Breakers
        from cognitionos_provider.llm.shared import SharedState

        async def main():
            shared = SharedState(sys.argv[1], timeout_seconds=5)
            shared.connect()
            await Breakers(shared=shared).failed(sys.argv[2], probe=False, at_once=True, cooldown=60)
            print(time.time(), flush=True)

        asyncio.run(main())
    """
    with python(code, redis, KEY) as process:
        await eventually(lambda: _refused(breakers), seconds=30)
        seen = time.time()
        assert process.stdout is not None
        assert seen - float(process.stdout.readline()) < 1


async def test_two_processes_send_one_probe_per_cooldown(redis: str) -> None:
    code = """if True:
        import asyncio, sys, time
        from cognitionos_provider.llm.breaker import Breakers, BreakerSettings
        from cognitionos_provider.llm.shared import SharedState

        async def ask(breakers):
            while True:
                admission = await breakers.admit(sys.argv[2])
                if admission.probe:
                    print(time.time(), flush=True)
                if admission.allowed:
                    await breakers.failed(sys.argv[2], probe=admission.probe)
                else:
                    await asyncio.sleep(0)

        async def main():
            shared = SharedState(sys.argv[1], timeout_seconds=5)
            shared.connect()
            breakers = Breakers(BreakerSettings(cooldown_seconds=0.04, max_cooldown_seconds=0.04), shared=shared)
            await asyncio.gather(*(ask(breakers) for _ in range(5)))

        asyncio.run(main())
    """
    processes = [python(code, redis, KEY) for _ in range(2)]
    try:
        await eventually(lambda: int(stored(redis).get("opened", 0)) > 40, seconds=60)
    finally:
        for process in processes:
            process.kill()
    each = [list(map(float, process.communicate()[0].splitlines())) for process in processes]
    probes = sorted(itertools.chain(*each))
    assert min(map(len, each)) > 0
    assert min(later - earlier for earlier, later in itertools.pairwise(probes)) > 0.039
    # Each probe has opened it once more, but one whose process was killed first; the first opening needed none.
    assert len(probes) - (int(stored(redis)["opened"]) - 1) in (0, 1, 2)


async def test_a_closed_breaker_is_asked_for_four_times_a_second_however_many_calls_there_are(
    share: Share,
) -> None:
    breakers = Breakers(shared=(shared := share()))
    begun = time.monotonic()
    while time.monotonic() < begun + 0.6:
        for admission in await asyncio.gather(*(breakers.admit(KEY) for _ in range(100))):
            assert admission == ALLOWED
            await breakers.succeeded(KEY, probe=False)
    assert shared.runs <= 1 + (time.monotonic() - begun) / 0.25


async def test_successes_count_for_the_share_of_all(redis: str, share: Share) -> None:
    rules = BreakerSettings(consecutive=1_000)
    one, other = Breakers(rules, shared=share()), Breakers(rules, shared=share())
    for _ in range(30):
        await one.admit(KEY)
        await one.succeeded(KEY, probe=False)

    async def told() -> bool:
        await one.admit(KEY)
        return any(value.endswith(" 0") for value in stored(redis).values())

    await eventually(told)
    assert await fail(other, 29) == 0.0
    assert await fail(other, 1) > 0


async def test_a_success_ends_the_row_of_another_process(share: Share) -> None:
    one, other = Breakers(shared=share()), Breakers(shared=share())
    await fail(one, 4)
    await other.admit(KEY)
    await other.succeeded(KEY, probe=False)
    assert await fail(one, 4) == 0.0


async def test_a_given_up_probe_has_no_say_any_more(share: Share) -> None:
    rules = BreakerSettings(cooldown_seconds=0.01)
    slow, quick = Breakers(rules, shared=share()), Breakers(rules, shared=share())
    await fail(slow, 5)
    await eventually(lambda: _is_probe(slow, probe_seconds=0.01))
    await eventually(lambda: _is_probe(quick, probe_seconds=60))
    await slow.succeeded(KEY, probe=True)
    assert await slow.failed(KEY, probe=True) == 0.0
    await slow.left(KEY, probe=True)
    assert await slow.admit(KEY) == Admission(allowed=False, wait=0.25)
    await quick.succeeded(KEY, probe=True)
    assert await quick.admit(KEY) == ALLOWED
    assert await slow.admit(KEY) == ALLOWED


async def _is_probe(breakers: Breakers, probe_seconds: float) -> bool:
    return (await breakers.admit(KEY, probe_seconds=probe_seconds)).probe


async def test_what_is_stored_goes_away_some_time_after_the_last_change(redis: str, share: Share) -> None:
    breakers = Breakers(shared=share())
    with Redis.from_url(redis) as client:
        await fail(breakers, 1)
        assert 3_500 < client.ttl(f"cognitionos:breaker:{KEY}") <= 3_600
        await breakers.failed(KEY, probe=False, at_once=True, cooldown=86_400)
        assert client.ttl(f"cognitionos:breaker:{KEY}") > 86_400 + 3_500


@pytest.fixture
async def proxy(redis: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis).running() as proxy:
        yield proxy


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_without_an_answer_each_process_has_breakers_of_its_own(
    caplog: pytest.LogCaptureFixture, share: Share
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and it does not listen: connections are refused
        breakers = Breakers(shared=share(f"redis://127.0.0.1:{bound.getsockname()[1]}"))
        assert await breakers.admit(KEY) == ALLOWED
        await breakers.succeeded(KEY, probe=False)
        assert await fail(breakers, 4) == 0.0
        assert await fail(breakers, 1) == pytest.approx(5, abs=1)
        assert not (await breakers.admit(KEY)).allowed
        await breakers.left(KEY, probe=True)
    assert len(warnings(caplog)) == 1


async def test_a_redis_that_hangs_holds_nobody_up_and_counts_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture, proxy: Proxy, share: Share
) -> None:
    breakers = Breakers(shared=share(proxy.url, timeout_seconds=0.1, retry_seconds=0.5))
    other = Breakers(shared=share())
    await fail(breakers, 3)
    proxy.answers.clear()
    begun = time.monotonic()
    assert await fail(breakers, 1) == 0.0
    assert await fail(breakers, 1) > 0  # the two that Redis had no answer to are counted here
    assert time.monotonic() - begun < 0.4
    assert not (await breakers.admit(KEY)).allowed
    assert len(warnings(caplog)) == 1

    # Everybody else finds that it works, and so does this process when Redis is back.
    with Redis.from_url(proxy.redis.geturl()) as client:
        client.delete(f"cognitionos:breaker:{KEY}")
    proxy.answers.set()
    await eventually(lambda: _allowed(breakers), seconds=3)
    assert await fail(breakers, 2) == 0.0
    assert await fail(other, 3) > 0
    await eventually(lambda: _refused(breakers), seconds=1)
    assert len(warnings(caplog)) == 1


async def _allowed(breakers: Breakers) -> bool:
    return (await breakers.admit(KEY)).allowed


async def test_an_opening_that_redis_told_of_holds_when_redis_is_gone(proxy: Proxy, share: Share) -> None:
    breakers = Breakers(shared=share(proxy.url, timeout_seconds=0.1))
    await Breakers(shared=share()).failed(KEY, probe=False, at_once=True, cooldown=60)
    assert await _refused(breakers)
    proxy.answers.clear()
    assert (await breakers.admit(KEY)).wait == pytest.approx(60, abs=2)


async def test_a_caller_that_is_cancelled_while_it_becomes_the_probe_gives_the_probe_back(
    proxy: Proxy, redis: str, share: Share
) -> None:
    breakers = Breakers(BreakerSettings(cooldown_seconds=0.01), shared=share(proxy.url, timeout_seconds=5))
    await breakers.admit(KEY)  # the script is loaded now
    await fail(breakers, 5)
    await eventually(lambda: breakers.state(KEY) == "half_open")
    proxy.answers.clear()
    asking = asyncio.create_task(breakers.admit(KEY))
    await eventually(lambda: "probe" in stored(redis))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    proxy.answers.set()
    await eventually(lambda: "probe" not in stored(redis), seconds=1)
    assert await breakers.admit(KEY) == PROBE


async def test_a_report_arrives_though_its_caller_is_cancelled(
    proxy: Proxy, redis: str, share: Share
) -> None:
    breakers = Breakers(shared=share(proxy.url, timeout_seconds=5))
    proxy.answers.clear()  # so that it can't even connect
    reporting = asyncio.create_task(breakers.failed(KEY, probe=False, at_once=True))
    await asyncio.sleep(0)
    reporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reporting
    proxy.answers.set()
    await eventually(lambda: "ends" in stored(redis))
