from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from services import redis_url

from cognitionos_provider.llm.cache import ResponseCache
from cognitionos_provider.llm.shared import SharedState

TEXT = 'Zoë said: "👋"'


class Now:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_url() as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with redis.Redis.from_url(server, decode_responses=True) as client:
        yield client


@pytest.fixture
async def shared(server: str, client: Any) -> AsyncIterator[SharedState]:
    state = SharedState(server, prefix=f"test-{uuid4().hex}:", timeout_seconds=2)
    state.connect()
    yield state
    await state.aclose()
    for key in client.keys(f"{state.prefix}*"):
        client.delete(key)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a Redis that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/1"


# --- In one process


async def test_an_answer_is_found_until_it_expires(now: Now) -> None:
    cache = ResponseCache(clock=now)
    assert await cache.get("key") is None
    await cache.put("key", TEXT, 10)
    now.seconds = 9.9
    assert await cache.get("key") == TEXT
    now.seconds = 10
    assert await cache.get("key") is None
    assert not cache._kept


async def test_an_answer_that_is_put_again_replaces_the_old_one(now: Now) -> None:
    cache = ResponseCache(clock=now)
    await cache.put("key", "old", 10)
    now.seconds = 9
    await cache.put("key", "new", 10)
    now.seconds = 18
    assert await cache.get("key") == "new"


async def test_the_answers_that_were_used_last_are_kept() -> None:
    cache = ResponseCache(max_entries=3)
    for key in "abc":
        await cache.put(key, key, 10)
    await cache.get("a")
    await cache.put("b", "b", 10)
    await cache.put("d", "d", 10)
    assert [await cache.get(key) for key in "abcd"] == ["a", "b", None, "d"]


async def test_an_answer_that_is_too_large_or_lives_no_time_is_not_kept() -> None:
    cache = ResponseCache(max_bytes=6)
    await cache.put("fits", "äöü", 10)
    await cache.put("bytes", "äöüx", 10)
    await cache.put("characters", "x" * 7, 10)
    await cache.put("expired", "x", 0)
    await cache.put("expired", "x", 0.0009)
    await cache.put("expired", "x", -1)
    assert list(cache._kept) == ["fits"]


# --- With Redis


async def test_an_answer_is_found_by_other_processes(shared: SharedState, client: Any) -> None:
    one, other = ResponseCache(shared=shared), ResponseCache(shared=shared)
    assert await other.get("key") is None
    await one.put("key", TEXT, 100)
    assert await other.get("key") == TEXT
    assert not one._kept
    assert client.keys(f"{shared.prefix}*") == [f"{shared.prefix}cache/key"]
    assert 90_000 < client.pttl(f"{shared.prefix}cache/key") <= 100_000


async def test_redis_forgets_an_answer_when_it_expires(shared: SharedState) -> None:
    cache = ResponseCache(shared=shared)
    await cache.put("key", TEXT, 0.05)
    async with asyncio.timeout(5):
        while await cache.get("key") is not None:
            await asyncio.sleep(0.005)


async def test_what_redis_would_refuse_is_not_sent_there(shared: SharedState, client: Any) -> None:
    """Else the next step of a budget or a breaker would find Redis marked as down."""
    cache = ResponseCache(shared=shared, max_bytes=100)
    await cache.put("large", "x" * 101, 10)
    await cache.put("surrogate", "\ud83d", 10)
    await cache.put("expired", "x", 0)
    assert client.keys(f"{shared.prefix}*") == []
    await cache.put("for ever", "x", 1e300)
    assert client.pttl(f"{shared.prefix}cache/for ever") > 364 * 24 * 3600 * 1000
    assert not shared.down
    assert [await cache.get(key) for key in ("large", "surrogate", "expired", "for ever")] == [
        None,
        None,
        None,
        "x",
    ]


async def test_answers_are_text_also_where_the_url_asks_for_text(shared: SharedState, server: str) -> None:
    state = SharedState(f"{server}?decode_responses=true", prefix=shared.prefix)
    state.connect()
    cache = ResponseCache(shared=state)
    await cache.put("key", TEXT, 10)
    assert await cache.get("key") == TEXT
    await state.aclose()


@pytest.mark.parametrize("server", ["refused", "silent"])
async def test_without_an_answer_from_redis_the_process_keeps_answers_itself(
    request: pytest.FixtureRequest, server: str
) -> None:
    url = request.getfixturevalue(server).replace("http:", "redis:")
    state = SharedState(url, timeout_seconds=0.2)
    state.connect()
    cache = ResponseCache(shared=state)
    begun = time.monotonic()
    assert await cache.get("key") is None
    await cache.put("key", TEXT, 10)
    assert await cache.get("key") == TEXT
    assert time.monotonic() - begun < 1
    await state.aclose()


async def test_what_was_put_while_redis_was_down_is_found_when_it_is_back(
    shared: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ResponseCache(shared=shared)
    with monkeypatch.context() as down:
        down.setattr(SharedState, "down", property(lambda _: True))
        await cache.put("key", "old", 10)
    assert await cache.get("key") == "old"
    # An answer in Redis goes before one that is kept here, which is older.
    await cache.put("key", "new", 10)
    assert await cache.get("key") == "new"
    assert not cache._kept


async def test_a_key_of_another_kind_is_no_answer(shared: SharedState, client: Any) -> None:
    client.hset(f"{shared.prefix}cache/key", "a", "b")
    assert await ResponseCache(shared=shared).get("key") is None
