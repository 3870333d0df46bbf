from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from budget_shop import NONE, Ledger, left_is, purse_of, refused, reserve, run, until, waiting
from hypothesis import given, settings
from hypothesis import strategies as st

from cognitionos_provider.exceptions import BudgetExceededError
from cognitionos_provider.llm import books
from cognitionos_provider.llm.budget import Budget, Budgets, Reservation
from cognitionos_provider.llm.purse import dollars


async def test_what_a_call_left_of_its_reservation_can_be_spent_by_another() -> None:
    budgets, budget = Budgets(), run("1")
    first = await reserve(budgets, budget, "0.7")
    await refused(budgets, budget, "0.4")
    await first.settle(Decimal("0.2"))
    await left_is(budgets, budget, "0.8")


async def test_a_call_that_can_never_fit_is_refused_at_once_with_all_the_numbers() -> None:
    budgets, ledger = Budgets(), Ledger("0.49")
    assert await refused(budgets, run("0.50", ledger), "0.03", seconds=60) == (
        "The run's budget of $0.50 is used up: $0.49 is spent, and this call may cost up to $0.03 "
        "(nothing was sent)"
    )
    agent = Budget("agent/7/x", Decimal("0.5"), "the budget of agent 'x'")
    await reserve(budgets, agent, "0.1")
    assert await refused(budgets, agent, "0.6000015", seconds=60) == (
        "The budget of agent 'x' of $0.50 is too small: $0.00 is spent, up to $0.10 is reserved by running calls, "
        "and this call may cost up to $0.600002 (nothing was sent)"
    )


async def test_a_call_waits_until_others_leave_enough() -> None:
    budgets, budget = Budgets(), run("1")
    first = await reserve(budgets, budget, "0.7")
    call = asyncio.create_task(reserve(budgets, budget, "0.7", seconds=60))
    await until(lambda: waiting(budgets, budget))
    await first.settle(Decimal("0.3"))
    await (await call).settle(NONE)
    await left_is(budgets, budget, "0.7")


async def test_a_wait_that_is_in_vain_is_told() -> None:
    budgets, budget = Budgets(), run("1")
    await reserve(budgets, budget, "0.7")
    assert await refused(budgets, budget, "0.7", seconds=0.05) == (
        "The run's budget of $1.00 has no room now: $0.00 is spent, up to $0.70 is reserved by running calls, and "
        "this call may cost up to $0.70 (waited 0.05 s for running calls to leave more; nothing was sent)"
    )
    assert not waiting(budgets, budget)


async def test_a_waiting_call_that_can_no_longer_fit_is_refused_at_once() -> None:
    budgets, budget = Budgets(), run("1")
    first = await reserve(budgets, budget, "0.7")
    call = asyncio.create_task(refused(budgets, budget, "0.7", seconds=60))
    await until(lambda: waiting(budgets, budget))
    await first.settle(Decimal("0.5"))
    assert "is used up: $0.50 is spent" in await call


async def test_all_budgets_are_reserved_from_or_none() -> None:
    budgets, whole, part = Budgets(), run("1"), run("0.5", key="agent/7/x")
    first = await reserve(budgets, [whole, part], "0.4")
    assert "$0.50" in await refused(budgets, [whole, part], "0.2")
    await reserve(budgets, whole, "0.6")
    assert "$1.00" in await refused(budgets, [part, whole], "0.1")
    await first.settle(Decimal("0.1"))
    await left_is(budgets, part, "0.4")
    await left_is(budgets, whole, "0.3")


async def test_who_came_first_is_served_first_and_a_smaller_call_may_pass_a_larger_one() -> None:
    budgets, budget = Budgets(), run("1")
    served: list[str] = []

    async def call(amount: str) -> Reservation:
        reservation = await reserve(budgets, budget, amount, seconds=60)
        served.append(amount)
        return reservation

    running = [await reserve(budgets, budget, "0.25") for _ in range(4)]
    calls = [asyncio.create_task(call(amount)) for amount in ("0.9", "0.20", "0.21", "0.22")]
    await until(lambda: waiting(budgets, budget) == 4)
    await running[0].settle(NONE)
    # It would fit in what the call before it leaves, were it not for those that came before.
    late = asyncio.create_task(call("0.05"))
    await until(lambda: len(served) == 2)
    assert served == ["0.20", "0.05"]
    for reservation in running[1:]:
        await reservation.settle(NONE)
    await until(lambda: len(served) == 4)
    assert served == ["0.20", "0.05", "0.21", "0.22"]
    for ended in (*calls[1:], late):
        await (await ended).settle(NONE)
    await calls[0]
    assert served[-1] == "0.9"


async def test_a_newcomer_does_not_take_what_was_freed_for_one_that_waits() -> None:
    budgets, budget = Budgets(), run("1")
    first = await reserve(budgets, budget, "1")
    call = asyncio.create_task(reserve(budgets, budget, "0.5", seconds=60))
    await until(lambda: waiting(budgets, budget))
    await first.settle(NONE)
    # The one that waits has not even run yet.
    assert "has no room now: $0.00 is spent, and" in await refused(budgets, budget, "0.7")
    await call


async def test_a_call_that_waits_for_the_ledger_holds_up_nobody() -> None:
    budgets, ledger = Budgets(), Ledger()
    free, unknown = run("1", key="free"), run("1", ledger, key="unknown")
    first = await reserve(budgets, free, "1")
    ledger.open.clear()
    stuck = asyncio.create_task(reserve(budgets, [free, unknown], "1", seconds=60))
    await until(lambda: ledger.asked)
    call = asyncio.create_task(reserve(budgets, free, "1", seconds=60))
    await until(lambda: waiting(budgets, free) == 2)
    await first.settle(NONE)
    async with asyncio.timeout(10):
        await (await call).settle(NONE)
    ledger.open.set()
    await stuck


async def test_calls_that_wait_for_several_budgets_do_not_block_each_other() -> None:
    budgets, a, b = Budgets(), run("1", key="a"), run("1", key="b")
    hold_a, hold_b = await reserve(budgets, a, "1"), await reserve(budgets, b, "1")
    calls = [
        asyncio.create_task(reserve(budgets, wanted, "1", seconds=60))
        for wanted in ([a, b], [b, a], [b], [a], [a, b])
    ]
    await until(lambda: waiting(budgets, a) + waiting(budgets, b) == 8)
    await hold_b.settle(NONE)
    await (await calls[2]).settle(NONE)
    await hold_a.settle(NONE)
    for number in (0, 1, 3, 4):
        async with asyncio.timeout(10):
            await (await calls[number]).settle(NONE)
    await left_is(budgets, a, "1")
    await left_is(budgets, b, "1")


async def test_a_cancelled_call_leaves_nothing_behind_and_lets_the_next_one_go() -> None:
    budgets, budget = Budgets(), run("1")
    first = await reserve(budgets, budget, "1")
    calls = [asyncio.create_task(reserve(budgets, budget, "1", seconds=60)) for _ in range(3)]
    await until(lambda: waiting(budgets, budget) == 3)
    calls[1].cancel()
    await first.settle(NONE)  # calls the first one
    calls[0].cancel()  # before it could go
    await (await calls[2]).settle(NONE)
    assert not waiting(budgets, budget)
    await left_is(budgets, budget, "1")


async def test_only_the_first_settlement_counts_and_it_may_be_more_than_was_reserved() -> None:
    budgets, budget = Budgets(), run("1")
    reservation = await reserve(budgets, budget, "0.2")
    with pytest.raises(ValueError, match="not -1"):
        await reservation.settle(Decimal(-1))
    with pytest.raises(ValueError, match="not NaN"):
        await reservation.settle(Decimal("NaN"))
    await reservation.settle(Decimal("0.3"))
    await reservation.settle(NONE)
    await left_is(budgets, budget, "0.7")
    await (await reserve(budgets, budget, "0.7")).settle(Decimal("0.8"))
    assert "$1.10 is spent" in await refused(budgets, budget, "0")


async def test_fractions_of_a_micro_dollar_count_as_a_whole_one() -> None:
    budgets, budget = Budgets(), run("0.0000039")
    await (await reserve(budgets, budget, "0.0000011")).settle(Decimal("0.0000000001"))
    await left_is(budgets, budget, "0.000002")
    assert [dollars(each) for each in (0, 12, 1_230_000, 10**15)] == [
        "$0.00",
        "$0.000012",
        "$1.23",
        "$1000000000.00",
    ]


async def test_an_amount_that_is_none_is_not_taken() -> None:
    for amount in ("-0.1", "NaN", "Infinity"):
        with pytest.raises(ValueError, match="a number from 0 on"):
            await reserve(Budgets(), run("1"), amount)
    with pytest.raises(ValueError, match="given twice: x, x"):
        await reserve(Budgets(), [run("1", key="x"), run("2", key="x")], "0.1")


async def test_without_a_budget_nothing_is_bounded() -> None:
    await (await reserve(Budgets(), [], "1000000")).settle(Decimal(5))


async def test_the_ledger_is_asked_once_however_many_calls_begin_together() -> None:
    budgets, ledger = Budgets(), Ledger("0.4")
    budget = run("1", ledger)
    ledger.open.clear()
    calls = [asyncio.create_task(reserve(budgets, budget, "0.1")) for _ in range(10)]
    await until(lambda: ledger.asked)
    calls[0].cancel()
    ledger.open.set()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in ended].count(Reservation) == 6
    assert ledger.asked == 1


async def test_a_ledger_that_fails_lets_no_call_pass_and_is_asked_again_by_the_next() -> None:
    budgets, ledger = Budgets(), Ledger("0.4")
    budget = run("1", ledger)
    ledger.error = OSError("no database")
    both = await asyncio.gather(
        reserve(budgets, budget, "0.1"), reserve(budgets, budget, "0.1"), return_exceptions=True
    )
    assert [str(each) for each in both] == ["no database"] * 2
    ledger.error = None
    await left_is(budgets, budget, "0.6")
    assert ledger.asked == 2


async def test_what_nothing_depends_on_is_dropped_and_read_from_the_ledger_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(books, "_MOST_PURSES", 100)
    now = [0.0]
    budgets, ledger = Budgets(clock=lambda: now[0]), Ledger()
    kept, idle = run("1", ledger, "kept"), run("1", ledger, "idle")
    running = await reserve(budgets, kept, "0.5")
    await ledger.pay(await reserve(budgets, idle, "0.5"), "0.25")
    for number in range(300):
        await (await reserve(budgets, run("1", key=f"other/{number}"), "1")).settle(NONE)
    assert len(budgets._books._purses) == 100
    assert ledger.asked == 2
    await left_is(budgets, kept, "0.5")
    assert ledger.asked == 2
    await left_is(budgets, idle, "0.75")
    assert ledger.asked == 3
    now[0] = 3601
    for _ in range(100):
        await (await reserve(budgets, run("1", key="used"), "1")).settle(NONE)
    assert sorted(budgets._books._purses) == ["kept", "used"]
    await running.settle(NONE)


async def test_reserving_and_settling_takes_microseconds() -> None:
    budgets, budget = Budgets(), run("1000000")
    amount, cost = Decimal("0.0312345"), Decimal("0.0012345")

    async def once() -> None:
        reservation = await budgets.reserve([budget], amount, call_id="c", timeout=1, hold_seconds=60)
        await reservation.settle(cost)

    await once()
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(200):
            await once()
        best = min(best, (time.perf_counter() - begun) / 200)
    assert best < 50e-6


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from(["a", "b", "ab", "ba"]), st.integers(0, 12)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.integers(0, 2)),
        st.tuples(st.just("pause"), st.integers(1, 4), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_in_whatever_order_no_budget_is_overspent_and_no_reservation_lost(
    steps: list[tuple[str, Any, int]],
) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, Any, int]]) -> None:
    budgets = Budgets()
    both = {name: run("0.00002", key=name) for name in "ab"}
    calls: list[tuple[str, int, asyncio.Task[Reservation]]] = []
    settled: dict[int, int] = {}

    def used(name: str) -> int:
        """What is spent and reserved by what the calls were told."""
        sums = 0
        for number, (names, amount, call) in enumerate(calls):
            if name in names and call.done() and not call.cancelled() and call.exception() is None:
                sums += settled.get(number, amount)
        return sums

    for kind, what, how in steps:
        if kind == "reserve":
            wanted = [both[name] for name in what]
            task = asyncio.create_task(reserve(budgets, wanted, f"{how / 1_000_000:f}", seconds=60))
            calls.append((what, how, task))
        elif kind == "pause":
            for _ in range(what):
                await asyncio.sleep(0)
        elif calls:
            number = what % len(calls)
            _, amount, task = calls[number]
            if kind == "cancel":
                task.cancel()
                for _ in range(how):
                    await asyncio.sleep(0)
            elif task.done() and not task.cancelled() and task.exception() is None and number not in settled:
                settled[number] = min(how, amount)
                await task.result().settle(Decimal(settled[number]) / 1_000_000)
        for name in both:
            assert used(name) <= 20
            if name in budgets._books._purses:
                purse = purse_of(budgets, both[name])
                assert purse.spent + purse.reserved <= 20
    for _ in range(30 + 5 * len(calls)):  # more than what is on its way needs
        await asyncio.sleep(0)
    for name, budget in both.items():
        if name in budgets._books._purses:
            purse = purse_of(budgets, budget)
            assert purse.spent + purse.reserved == used(name)
            # Nobody waits for what is there, nor for what can't come.
            assert all(claim.lacking_at() is not None for claim in purse.waiting)
            assert all(claim.hopeless_at() is None for claim in purse.waiting)
    for number, (_, _, task) in enumerate(calls):
        task.cancel()
        with suppress(asyncio.CancelledError, BudgetExceededError):
            reservation = await task
            if number not in settled:
                settled[number] = 0
                await reservation.settle(NONE)
    for name, budget in both.items():
        await left_is(budgets, budget, f"{(20 - used(name)) / 1_000_000:f}")
        assert not purse_of(budgets, budget).held
