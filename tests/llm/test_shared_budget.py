"""Budgets that several processes share through Redis."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from budget_shop import (
    NONE,
    Ledger,
    Shop,
    left_is,
    purse_of,
    refused,
    reserve,
    run,
    spawn,
    until,
    waiting,
)

from cognitionos_provider.llm import budget as budget_module
from cognitionos_provider.llm import shared_budget


async def test_processes_share_a_budget_and_see_within_a_moment_what_another_leaves(shop: Shop) -> None:
    one, other, ledger = shop.process(), shop.process(), Ledger("0.1")
    budget = run("1", ledger)
    first = await reserve(one, budget, "0.7")
    assert "up to $0.70 is reserved" in await refused(other, budget, "0.3")
    begun = time.monotonic()
    call = asyncio.create_task(reserve(other, budget, "0.7", seconds=60))
    await until(lambda: waiting(other, budget))
    await ledger.pay(first, "0.2")
    second = await call
    assert time.monotonic() - begun < 2
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 700_000)
    await ledger.pay(second, "0.5")
    await left_is(one, budget, "0.2")
    assert (shop.number("spent"), shop.number("reserved")) == (800_000, 0)
    assert "is used up: $0.80 is spent" in await refused(other, budget, "0.3", seconds=60)
    assert ledger.asked == 1


async def test_processes_that_begin_together_ask_the_ledger_once(shop: Shop) -> None:
    ledger = Ledger("0.5")
    ledger.open.clear()
    calls = [asyncio.create_task(reserve(shop.process(), run("1", ledger), "0.1")) for _ in range(4)]
    await until(lambda: ledger.asked)
    ledger.open.set()
    await asyncio.gather(*calls)
    assert ledger.asked == 1
    assert (shop.number("spent"), shop.number("reserved")) == (500_000, 400_000)


async def test_a_process_that_dies_while_it_asks_the_ledger_holds_the_others_up_for_a_while_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_budget, "_LOCK_MS", 300)
    dying, ledger = Ledger(), Ledger("0.5")
    dying.open.clear()
    stuck = asyncio.create_task(reserve(shop.process(), run("1", dying), "0.1"))
    await until(lambda: dying.asked)
    budgets = shop.process()
    await left_is(budgets, run("1", ledger), "0.5")
    assert ledger.asked == 1
    # Should it come back, it finds that another one was faster, and does not undo what that one has built.
    dying.total = Decimal("0.7")
    dying.open.set()
    await stuck
    await left_is(budgets, run("1", ledger), "0.2")


async def test_a_ledger_that_fails_is_asked_again_without_waiting_for_the_lock(shop: Shop) -> None:
    budgets, ledger = shop.process(), Ledger("0.4")
    ledger.error = OSError("no database")
    with pytest.raises(OSError, match="no database"):
        await reserve(budgets, run("1", ledger), "0.1")
    ledger.error = None
    async with asyncio.timeout(2):
        await left_is(budgets, run("1", ledger), "0.6")


async def test_several_budgets_are_reserved_from_in_one_step(shop: Shop) -> None:
    one, other = shop.process(), shop.process()
    whole, part = run("1"), run("0.5", key="agent/{7}/x")
    first = await reserve(one, [whole, part], "0.4")
    assert "$0.50" in await refused(other, [whole, part], "0.2")
    await reserve(other, whole, "0.6")
    assert "$1.00" in await refused(other, [part, whole], "0.1")
    await first.settle(Decimal("0.1"))
    await left_is(other, part, "0.4")
    await left_is(other, whole, "0.3")
    # Only one of the two is known to Redis.
    shop.redis.delete(f"{shop.prefix}budget/agent/{{7}}/x")
    await (await reserve(other, [whole, part], "0.3")).settle(NONE)


async def test_calls_that_name_the_same_budgets_in_another_order_do_not_block_each_other(shop: Shop) -> None:
    budgets, a, b = shop.process(), run("1", key="a{7}"), run("1", key="b{7}")
    async with asyncio.timeout(10):
        await asyncio.gather(
            *(reserve(budgets, [a, b] if number % 2 else [b, a], "0.1") for number in range(10))
        )


async def test_a_state_is_one_key_that_expires_a_week_after_its_last_use(shop: Shop) -> None:
    budgets = shop.process()
    reservation = await reserve(budgets, run("1"), "0.1")
    (key,) = shop.redis.keys(f"{shop.prefix}*")
    assert key == f"{shop.prefix}budget/execution/{{7}}"
    for use in (reservation.settle(NONE), reserve(budgets, run("1"), "0.1")):
        shop.redis.expire(key, 100)
        await use
        assert 604_700 < shop.redis.ttl(key) <= 604_800


async def test_a_budget_of_a_billion_is_exact_to_the_micro_dollar(shop: Shop) -> None:
    budgets, budget = shop.process(), run("999999999")
    await (await reserve(budgets, budget, "999999999")).settle(Decimal("999999998.999999"))
    assert shop.number("spent") == 999_999_998_999_999
    await left_is(budgets, budget, "0.000001")
    await (await reserve(budgets, budget, "0")).settle(NONE)
    await left_is(budgets, budget, "0.000001")


RACER = """
import asyncio, json, random, sys
from decimal import Decimal
import redis
from cognitionos_provider.exceptions import BudgetExceededError
from cognitionos_provider.llm.budget import Budget, Budgets
from cognitionos_provider.llm.shared import SharedState

url, prefix = sys.argv[1:3]
MOST = 1_000_000

async def main():
    shared = SharedState(url, prefix=prefix, timeout_seconds=20)
    shared.connect()
    budgets, seen = Budgets(shared=shared), redis.asyncio.Redis.from_url(url)
    spent = refused = most = 0
    budget = Budget("execution/{race}", Decimal(MOST) / 1_000_000, "the run's budget", spent=None)

    async def call(number):
        nonlocal spent, refused, most
        amount = random.randint(1_000, 90_000)
        try:
            reservation = await budgets.reserve(
                [budget], Decimal(amount) / 1_000_000, call_id=f"c{number}", timeout=60, hold_seconds=60
            )
        except BudgetExceededError:
            refused += 1
            return
        # Counted after the grant and until before the settlement: never more than what the budget counts.
        most = max(most, await seen.incrby(prefix + "seen", amount))
        cost = random.randint(0, amount // 2)
        spent += cost
        await seen.decrby(prefix + "seen", amount - cost)
        await reservation.settle(Decimal(cost) / 1_000_000)

    await seen.incr(prefix + "ready")
    while int(await seen.get(prefix + "ready")) < 4:
        await asyncio.sleep(0.01)
    await asyncio.gather(*map(call, range(50)))
    print(json.dumps({"spent": spent, "refused": refused, "most": most}))
    await seen.aclose()
    await shared.aclose()

asyncio.run(main())
"""


async def test_processes_that_race_never_overspend(shop: Shop) -> None:
    racers = [await spawn(RACER, shop.url, shop.prefix) for _ in range(4)]
    answers = [json.loads((await racer.communicate())[0]) for racer in racers]
    most = max(answer["most"] for answer in answers)
    assert 800_000 < most <= 1_000_000
    state = shop.hash("execution/{race}")
    assert int(state["spent"]) == sum(answer["spent"] for answer in answers) <= 1_000_000
    assert int(state["reserved"]) == 0
    assert not [field for field in state if field.startswith(("r:", "l:"))]
    # The most that all calls can cost is far more than the budget, so some are turned away; and not for nothing.
    assert any(answer["refused"] for answer in answers)
    assert int(state["spent"]) > 900_000


async def test_what_is_not_settled_in_time_is_spent_until_the_ledger_says_otherwise(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "_GRACE_SECONDS", 0.0)
    program = """
import asyncio, sys
from decimal import Decimal
from cognitionos_provider.llm import budget
from cognitionos_provider.llm.shared import SharedState
budget._GRACE_SECONDS = 0.0

async def main():
    shared = SharedState(sys.argv[1], prefix=sys.argv[2], timeout_seconds=20)
    shared.connect()
    run = budget.Budget("execution/{7}", Decimal(1), "the run's budget")
    await budget.Budgets(shared=shared).reserve([run], Decimal("0.4"), call_id="c", timeout=1, hold_seconds=0.5)
    print("reserved", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    killed = await spawn(program, shop.url, shop.prefix)
    assert killed.stdout is not None
    assert await killed.stdout.readline() == b"reserved\n"
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    budgets, ledger = shop.process(), Ledger("0.1")
    ledger.open.clear()
    # It waits for the call that is running, for all it knows; then that has cost as much as it may.
    call = asyncio.create_task(reserve(budgets, run("1", ledger), "0.7", seconds=60))
    await until(lambda: ledger.asked == 1)  # only the ledger may refuse what is only feared to be spent
    assert (shop.number("spent"), shop.number("lost"), shop.number("reserved")) == (400_000, 400_000, 0)
    ledger.open.set()
    await (await call).settle(NONE)
    assert (shop.number("spent"), shop.number("lost")) == (100_000, 0)
    ledger.total = Decimal("0.5")
    shop.flush()
    assert "$0.50 is spent" in await refused(budgets, run("1", ledger), "0.7", seconds=60)


async def test_a_call_that_settles_after_its_time_is_counted_right(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "_GRACE_SECONDS", 0.0)
    slow, budgets, budget = shop.process(), shop.process(), run("1")
    late = await reserve(slow, budget, "0.4", hold=0.05)
    await reserve(budgets, budget, "0.5", hold=60)

    def expired() -> int:
        return shop.number("lost")

    async with asyncio.timeout(10):
        while not expired():
            await refused(budgets, budget, "0.2")
    assert (shop.number("spent"), shop.number("reserved")) == (400_000, 500_000)
    await late.settle(Decimal("0.3"))
    assert (shop.number("spent"), shop.number("reserved"), shop.number("lost")) == (300_000, 500_000, 0)
    await left_is(budgets, budget, "0.2")


async def test_a_call_that_settles_after_its_time_and_after_the_state_was_built_anew_is_counted_right(
    shop: Shop, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, far, budget = shop.process(), shop.far_process(timeout=0.5), run("1")
    monkeypatch.setattr(budget_module, "_GRACE_SECONDS", 0.0)
    late = await reserve(slow, budget, "0.4", hold=0.5)
    await left_is(far, budget, "0.6")
    shop.wire.turn("refuse")
    await left_is(far, budget, "1")
    shop.wire.turn("up")
    await at.sleep(5)
    await left_is(far, budget, "0.6")
    # What is feared to be spent goes on being reserved while the only one to know has not settled it.
    shop.redis.hset(f"{shop.prefix}budget/{budget.key}", "due", 1)
    while shop.number("reserved"):
        shop.redis.hset(f"{shop.prefix}budget/{budget.key}", "due", 1)
        await (await reserve(far, budget, "0")).settle(NONE)
    assert (shop.number("spent"), shop.number("lost")) == (400_000, 400_000)
    await late.settle(Decimal("0.3"))
    assert (shop.number("spent"), shop.number("lost"), shop.number("reserved")) == (300_000, 0, 0)


async def test_a_call_that_is_cancelled_on_its_way_to_redis_leaves_nothing_there(shop: Shop) -> None:
    budgets, budget = shop.far_process(), run("1")
    await left_is(budgets, budget, "1")
    shop.wire.lag = 0.1
    for wait in (0.05, 0.15, 0.25):  # on its way there, on its way back, there
        call = asyncio.create_task(reserve(budgets, budget, "1"))
        await asyncio.sleep(wait)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await (await call).settle(NONE)
        await until(lambda: purse_of(budgets, budget).idle)
    assert shop.number("reserved") == 0
    assert not [field for field in shop.hash() if field.startswith("r:")]


async def test_a_settlement_that_is_cancelled_is_carried_out(shop: Shop) -> None:
    budgets, budget = shop.far_process(), run("1")
    reservation = await reserve(budgets, budget, "1")
    shop.wire.lag = 0.1
    settling = asyncio.create_task(reservation.settle(Decimal("0.25")))
    await asyncio.sleep(0.02)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    await reservation.settle(NONE)  # waits for the first one
    assert (shop.number("spent"), shop.number("reserved")) == (250_000, 0)


async def test_a_step_that_is_sent_twice_counts_once(shop: Shop) -> None:
    budgets, budget = shop.process(), run("1")
    (state,) = shop.states
    sent: list[Callable[[], Awaitable[Any]]] = []
    once = state.run

    async def twice(*step: Any) -> Any:
        sent.append(lambda: once(*step))
        await once(*step)
        return await once(*step)

    state.run = twice  # type: ignore[method-assign]
    reservation = await reserve(budgets, budget, "0.4")
    assert (shop.number("spent"), shop.number("reserved")) == (0, 400_000)
    await reservation.settle(Decimal("0.3"))
    assert (shop.number("spent"), shop.number("reserved")) == (300_000, 0)
    # A reservation that arrives after the state was built anew would belong to nobody.
    state.run = once  # type: ignore[method-assign]
    late = sent[-2]
    shop.flush()
    await left_is(budgets, budget, "0.7")
    await late()
    assert shop.number("reserved") == 0


def test_the_scripts_name_the_answers_by_their_numbers() -> None:
    scripts = (
        shared_budget._RESERVE,
        shared_budget._SETTLE,
        shared_budget._OPEN,
        shared_budget._BUILD,
    )
    found = {
        int(number) for script in scripts for number in re.findall(r"(?:answer = |return \{)(\d)", script)
    }
    assert found == {answer.value for answer in shared_budget.Answer} - {1, 2} | {0}
