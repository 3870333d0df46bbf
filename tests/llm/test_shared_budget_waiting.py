"""Calls that wait for room in a budget that several processes share through Redis."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from budget_shop import NONE, Shop, purse_of, reserve, run, until, waiting

from cognitionos_provider.llm import budget as budget_module
from cognitionos_provider.llm.budget import Budget, Budgets


def have_asked(budgets: Budgets, budget: Budget, number: int) -> bool:
    return waiting(budgets, budget) == number and all(
        claim.asked and not claim.trying for claim in purse_of(budgets, budget).waiting
    )


async def test_a_waiting_call_goes_on_as_soon_as_another_of_its_process_ends(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "pause", lambda: 60.0)
    budgets, budget = shop.process(), run("1")
    running = [await reserve(budgets, budget, "0.5") for _ in range(2)]
    calls = [asyncio.create_task(reserve(budgets, budget, "0.5", seconds=60)) for _ in range(4)]
    await until(lambda: waiting(budgets, budget) == 4)
    async with asyncio.timeout(10):
        for number, call in enumerate(calls):
            await running[number].settle(NONE)
            running.append(await call)
        for reservation in running:
            await reservation.settle(NONE)
        # And one that ends may leave enough for several.
        whole = await reserve(budgets, budget, "1")
        calls = [asyncio.create_task(reserve(budgets, budget, "0.5", seconds=60)) for _ in range(2)]
        await until(lambda: have_asked(budgets, budget, 2))
        await whole.settle(NONE)
        await asyncio.gather(*calls)


async def test_many_waiting_calls_ask_redis_no_more_often_than_one(shop: Shop) -> None:
    holder, budgets, budget = shop.process(), shop.process(), run("1")
    state, steps = shop.states[-1], []
    step = state.run

    async def counted(*given: Any) -> Any:
        steps.append(time.monotonic())
        return await step(*given)

    state.run = counted  # type: ignore[method-assign]
    held = await reserve(holder, budget, "1")
    calls = [asyncio.create_task(reserve(budgets, budget, "0.01", seconds=60)) for _ in range(100)]
    # Each has asked once, and the first of them again.
    await until(lambda: len(steps) > 106)
    assert waiting(budgets, budget) == 100
    assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(steps[103:]))
    await held.settle(NONE)
    async with asyncio.timeout(10):
        await asyncio.gather(*calls)


async def test_when_the_call_that_asks_for_all_is_given_up_the_next_one_asks(shop: Shop) -> None:
    holder, budgets, budget = shop.process(), shop.process(), run("1")
    held = await reserve(holder, budget, "1")
    calls = [asyncio.create_task(reserve(budgets, budget, "1", seconds=60)) for _ in range(3)]
    await until(lambda: have_asked(budgets, budget, 3))
    for call in calls[:2]:
        call.cancel()
    await until(lambda: waiting(budgets, budget) == 1)
    await held.settle(NONE)
    async with asyncio.timeout(10):
        await calls[2]


async def test_a_call_that_finds_its_room_taken_by_another_process_lets_the_next_one_go(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "pause", lambda: 60.0)
    budgets, other, budget = shop.far_process(), shop.process(), run("1")
    held = await reserve(budgets, budget, "0.6")
    await reserve(other, budget, "0.4")
    calls = [asyncio.create_task(reserve(budgets, budget, each, seconds=60)) for each in ("0.6", "0.2")]
    await until(lambda: have_asked(budgets, budget, 2))
    shop.wire.lag = 0.1
    settling = asyncio.create_task(held.settle(NONE))
    await until(lambda: shop.number("reserved") == 400_000)
    # The answer is on its way, and says that there is room for the first one.
    await reserve(other, budget, "0.4")
    await settling
    async with asyncio.timeout(10):
        await calls[1]
    assert not calls[0].done()
    calls[0].cancel()
