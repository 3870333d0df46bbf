from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import threading

import pytest
from structlog.contextvars import merge_contextvars

from cognitionos_provider.observability import get_trace_id, new_trace_id, set_trace_id, trace_context


def test_there_is_no_trace_id_outside_of_a_request() -> None:
    assert contextvars.Context().run(get_trace_id) is None


def test_a_set_trace_id_is_the_current_one_until_the_next() -> None:
    def request() -> list[str | None]:
        seen = []
        for trace_id in ("req-1", "req-2"):
            set_trace_id(trace_id)
            seen.append(get_trace_id())
        return seen

    assert contextvars.copy_context().run(request) == ["req-1", "req-2"]


def test_new_trace_ids_differ_and_are_w3c_trace_ids() -> None:
    ids = {new_trace_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id in ids)


def test_the_trace_id_before_a_block_comes_back_after_it_also_on_an_error() -> None:
    with trace_context("outer"):
        with contextlib.suppress(ZeroDivisionError), trace_context("inner") as inner:
            assert inner == get_trace_id() == "inner"
            _ = 1 / 0
        assert get_trace_id() == "outer"


@pytest.mark.parametrize("given", [None, ""])
def test_a_block_without_a_trace_id_gets_a_new_one(given: str | None) -> None:
    with trace_context("outer"), trace_context(given) as made:
        assert made == get_trace_id()
        assert re.fullmatch("[0-9a-f]{32}", made)


async def test_each_asyncio_task_has_its_own_trace_id() -> None:
    ready = asyncio.Barrier(3)

    async def request(trace_id: str) -> str | None:
        set_trace_id(trace_id)
        await ready.wait()
        return get_trace_id()

    with trace_context("parent"):
        assert await asyncio.gather(*map(request, ("a", "b", "c"))) == ["a", "b", "c"]
        assert get_trace_id() == "parent"


async def test_a_task_inherits_the_trace_id_it_was_started_with() -> None:
    async def child() -> str | None:
        return get_trace_id()

    with trace_context("parent"):
        task = asyncio.create_task(child())
    assert await task == "parent"


async def test_a_thread_with_a_copy_of_the_context_has_its_trace_id() -> None:
    seen: list[str | None] = []
    with trace_context("request"):
        assert await asyncio.to_thread(get_trace_id) == "request"
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: seen.append(get_trace_id()),)
        )
    thread.start()
    thread.join()
    assert seen == ["request"]


def test_structlog_which_airflow_logs_through_merges_the_trace_id_into_its_lines() -> None:
    with trace_context("req-1"):
        assert merge_contextvars(None, "info", {"event": "x"}) == {"event": "x", "trace_id": "req-1"}
    assert "trace_id" not in merge_contextvars(None, "info", {"event": "x"})
