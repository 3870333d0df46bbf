"""Budgets where Redis is emptied, does not answer, or comes back as it was a while ago."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import pytest
import redis
from budget_shop import NONE, Ledger, Shop, left_is, purse_of, reserve, run, until, waiting

from cognitionos_provider.llm.budget import Budgets, Reservation
from cognitionos_provider.llm.shared import SharedState, SharedStateDown


async def test_after_a_flush_the_ledger_and_the_running_calls_make_the_state(shop: Shop) -> None:
    one, other, ledger = shop.process(), shop.process(), Ledger()
    budget = run("1", ledger)
    await ledger.pay(await reserve(one, budget, "0.2"), "0.2")
    mine, theirs = await reserve(one, budget, "0.3"), await reserve(other, budget, "0.1")
    ended = await reserve(other, budget, "0.1")
    shop.flush()
    await ledger.pay(ended, "0.05")  # before anybody has seen that the state is gone
    await left_is(one, budget, "0.45")  # what the other's running call holds is not known yet
    assert ledger.asked == 2
    await left_is(other, budget, "0.35")  # now it is, and was told by its first step
    await left_is(one, budget, "0.35")
    await ledger.pay(theirs, "0.1")
    await ledger.pay(mine, "0")
    assert (shop.number("spent"), shop.number("reserved")) == (350_000, 0)
    assert ledger.asked == 2


async def test_what_is_settled_while_a_state_is_built_is_counted(shop: Shop) -> None:
    one, other, ledger = shop.process(), shop.process(), Ledger()
    budget = run("1", ledger)
    mine, theirs = await reserve(one, budget, "0.3"), await reserve(other, budget, "0.3")
    shop.flush()
    ledger.open.clear()
    call = asyncio.create_task(reserve(one, budget, "0.1", seconds=60))
    await until(lambda: ledger.asked == 2)
    await theirs.settle(Decimal("0.25"))
    await mine.settle(Decimal("0.15"))
    ledger.open.set()
    await (await call).settle(NONE)
    await left_is(other, budget, "0.6")


async def test_without_a_ledger_a_lost_state_is_what_the_process_knew(shop: Shop) -> None:
    budgets, budget = shop.process(), run("1")
    await left_is(budgets, budget, "1")
    await (await reserve(budgets, budget, "0.5")).settle(Decimal("0.25"))
    running = await reserve(budgets, budget, "0.5")
    shop.flush()
    await running.settle(Decimal("0.125"))
    await left_is(budgets, budget, "0.625")


@pytest.mark.parametrize("state", ["refuse", "hang"])
async def test_a_redis_that_does_not_answer_leaves_each_process_on_its_own(shop: Shop, state: str) -> None:
    shop.wire.turn(state)
    budgets, ledger = shop.far_process(timeout=0.5), Ledger("0.5")
    budget = run("1", ledger)
    begun = time.monotonic()
    first = await reserve(budgets, budget, "0.3")
    assert time.monotonic() - begun < 2
    call = asyncio.create_task(reserve(budgets, budget, "0.3", seconds=60))
    await until(lambda: waiting(budgets, budget))
    await ledger.pay(first, "0.1")
    await ledger.pay(await call, "0.2")
    await left_is(budgets, budget, "0.2")
    assert ledger.asked == 1
    assert not shop.redis.keys(f"{shop.prefix}*")


@pytest.mark.parametrize("state", ["refuse", "hang"])
async def test_an_outage_in_the_middle_is_bridged_by_the_ledger(shop: Shop, at: Any, state: str) -> None:
    budgets, near, ledger = shop.far_process(timeout=0.5), shop.process(), Ledger()
    budget = run("1", ledger)
    await ledger.pay(await reserve(budgets, budget, "0.1"), "0.1")
    running, ending = await reserve(budgets, budget, "0.2"), await reserve(budgets, budget, "0.3")
    theirs = await reserve(near, budget, "0.1")
    shop.wire.turn(state)
    await ledger.pay(ending, "0.15")
    assert ledger.asked == 1
    await left_is(budgets, budget, "0.55")  # all but what other processes do
    assert ledger.asked == 2
    during = await reserve(budgets, budget, "0.05")
    await ledger.pay(await reserve(budgets, budget, "0.1"), "0.05")
    assert shop.number("spent") == 100_000

    shop.wire.turn("up")
    await at.sleep(5)
    await left_is(budgets, budget, "0.35")
    assert ledger.asked == 3
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 350_000)
    await ledger.pay(running, "0.2")
    await ledger.pay(during, "0.05")
    await ledger.pay(theirs, "0.1")
    assert (shop.number("spent"), shop.number("reserved")) == (650_000, 0)
    await left_is(near, budget, "0.35")
    assert ledger.asked == 3


async def test_what_redis_holds_after_an_outage_is_not_trusted(shop: Shop, at: Any, server: str) -> None:
    budgets, ledger = shop.far_process(timeout=0.5), Ledger()
    budget, other = run("1", ledger), run("1", ledger, "execution/{8}")
    running = await reserve(budgets, budget, "0.1")
    with redis.Redis.from_url(server) as client:
        snapshot: Any = client.dump(f"{shop.prefix}budget/execution/{{7}}")
        await ledger.pay(await reserve(budgets, budget, "0.5"), "0.5")
        await ledger.pay(running, "0.1")
        shop.wire.turn("refuse")
        await left_is(budgets, budget, "0.4")
        # It comes back as it was a while ago, and with a budget that this process has not seen before.
        for number in (7, 8):
            client.restore(f"{shop.prefix}budget/execution/{{{number}}}", 0, snapshot, replace=True)
    shop.wire.turn("up")
    await at.sleep(5)
    await left_is(budgets, budget, "0.4")
    # The running call of that snapshot is of this very process, which knows better.
    await left_is(budgets, other, "0.4")


@pytest.mark.parametrize("seen_by", ["another step", "the call itself"])
async def test_a_call_that_ends_in_an_outage_is_not_forgotten(shop: Shop, at: Any, seen_by: str) -> None:
    budgets, ledger = shop.far_process(timeout=0.5), Ledger()
    budget = run("1", ledger)
    running = await reserve(budgets, budget, "0.4")
    shop.wire.turn("refuse")
    if seen_by == "another step":
        with pytest.raises(SharedStateDown):
            await shop.states[-1].run("return 1", [])
    await ledger.pay(running, "0.3")
    shop.wire.turn("up")
    await at.sleep(5)
    await left_is(budgets, budget, "0.7")
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 0)


async def test_a_reservation_whose_answer_got_lost_is_settled_in_redis_all_the_same(
    shop: Shop, at: Any
) -> None:
    budgets, ledger = shop.far_process(timeout=0.5), Ledger()
    budget = run("1", ledger)
    await left_is(budgets, budget, "1")
    shop.wire.lag = 0.3
    reservation = await reserve(budgets, budget, "0.4")
    assert ledger.asked == 2
    await until(lambda: shop.number("reserved") == 400_000)
    shop.wire.lag = 0
    await at.sleep(5)
    await ledger.pay(reservation, "0.3")
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 0)


async def test_a_reservation_that_redis_has_lost_makes_the_ledger_count(shop: Shop) -> None:
    budgets, ledger = shop.process(), Ledger()
    budget = run("1", ledger)
    reservation = await reserve(budgets, budget, "0.4")
    for field in shop.hash():
        if field.startswith("r:"):
            shop.redis.hdel(f"{shop.prefix}budget/{budget.key}", field)
    await ledger.pay(reservation, "0.3")
    await left_is(budgets, budget, "0.7")
    assert ledger.asked == 2


async def test_what_ends_while_the_ledger_is_read_is_counted_in_an_outage_and_after_it(
    shop: Shop, at: Any
) -> None:
    budgets, ledger = shop.far_process(timeout=0.5), Ledger()
    budget = run("1", ledger)
    first = await reserve(budgets, budget, "0.4")

    async def settle_while_the_ledger_is_read(running: Reservation, cost: str) -> None:
        ledger.open.clear()
        before = ledger.asked
        call = asyncio.create_task(reserve(budgets, budget, "0"))
        await until(lambda: ledger.asked > before)
        await ledger.pay(running, cost)
        ledger.open.set()
        await (await call).settle(NONE)

    shop.wire.turn("refuse")
    await settle_while_the_ledger_is_read(first, "0.3")
    await left_is(budgets, budget, "0.7")
    second = await reserve(budgets, budget, "0.4")
    shop.wire.turn("up")
    await at.sleep(5)
    await settle_while_the_ledger_is_read(second, "0.2")
    await left_is(budgets, budget, "0.5")
    assert (shop.number("spent"), shop.number("reserved")) == (500_000, 0)


async def test_what_ends_while_the_state_is_on_its_way_to_redis_is_counted(shop: Shop, at: Any) -> None:
    budgets, ledger = shop.far_process(timeout=1), Ledger()
    budget = run("1", ledger)
    shop.wire.turn("refuse")
    during = await reserve(budgets, budget, "0.4")
    shop.wire.turn("up")
    await at.sleep(5)
    shop.wire.lag = 0.1
    call = asyncio.create_task(reserve(budgets, budget, "0.1"))
    await until(lambda: ledger.asked == 2)
    # The ledger has been read, and what is held goes to Redis.
    await asyncio.sleep(0.02)
    await ledger.pay(during, "0.3")
    await (await call).settle(NONE)
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 0)


async def test_what_ends_unseen_by_redis_while_its_state_is_read_is_counted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, near, ledger = shop.far_process(), shop.process(), Ledger()
    budget = run("1", ledger)
    running = await reserve(budgets, budget, "0.4")
    shop.flush()
    await left_is(near, budget, "1")
    shop.wire.lag = 0.1
    call = asyncio.create_task(reserve(budgets, budget, "0.1"))
    # It is told that the state is another one, and now tells what it holds.
    await until(lambda: shop.number("reserved") == 400_000)
    with monkeypatch.context() as down:
        down.setattr(SharedState, "down", property(lambda _: True))
        await ledger.pay(running, "0.3")
    await (await call).settle(NONE)
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 0)


async def test_a_call_that_ends_after_an_outage_and_a_flush_is_counted_once(shop: Shop, at: Any) -> None:
    budgets, near, ledger = shop.far_process(timeout=0.5), shop.process(), Ledger()
    budget = run("1", ledger)
    running = await reserve(budgets, budget, "0.4")
    shop.wire.turn("refuse")
    await left_is(budgets, run("1", key="execution/{8}"), "1")
    shop.flush()
    await left_is(near, budget, "1")
    shop.wire.turn("up")
    await at.sleep(5)
    await ledger.pay(running, "0.3")
    await left_is(budgets, budget, "0.7")
    await left_is(near, budget, "0.7")


async def test_a_waiting_call_survives_an_outage(shop: Shop, at: Any) -> None:
    budgets, ledger = shop.far_process(timeout=0.5), Ledger()
    budget = run("1", ledger)
    running = await reserve(budgets, budget, "0.6")
    calls = [asyncio.create_task(reserve(budgets, budget, "0.6", seconds=60)) for _ in range(3)]
    await until(lambda: waiting(budgets, budget) == 3)
    shop.wire.turn("hang")
    await until(lambda: purse_of(budgets, budget).local)
    await running.settle(NONE)
    first = await calls[0]
    shop.wire.turn("up")
    await at.sleep(5)
    await first.settle(NONE)
    await (await calls[1]).settle(NONE)
    await (await calls[2]).settle(NONE)
    await left_is(budgets, budget, "1")
    assert (shop.number("spent"), shop.number("reserved")) == (0, 0)


async def test_a_redis_that_is_never_connected_is_no_redis(shop: Shop) -> None:
    shared = SharedState(shop.url, prefix=shop.prefix)
    await left_is(Budgets(shared=shared), run("1"), "1")
    assert not shop.hash()
