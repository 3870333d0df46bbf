from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from cognitionos_provider.llm import Attempt, Journal
from cognitionos_provider.llm import journal as journal_module
from cognitionos_provider.llm.journal import Answer, Intent, load_history, read_history


class Kept(dict[str, str]):
    """What Airflow's XCom offers: read a key, write a key, whoever wrote it before."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.fail = 0

    async def read(self, key: str) -> str | None:
        return self.get(key)

    async def write(self, key: str, text: str) -> None:
        self.writes += 1
        await asyncio.sleep(0)
        if self.fail:
            self.fail -= 1
            raise ConnectionError("the database is away")
        self[key] = text

    def history(self) -> Any:
        return read_history(self[key] for key in sorted(self))


def intent(call_id: str, item: int | None = None, **fields: Any) -> Intent:
    given = {
        "request": "r",
        "connection": "main",
        "provider": "openai",
        "model": "gpt-4",
        "at": 1.0,
        **fields,
    }
    return Intent(call_id=call_id, item=item, **given)


def attempt(call_id: str, outcome: str = "ok", **fields: Any) -> Attempt:
    return Attempt.model_validate(
        {"provider": "openai", "model": "gpt-4", "call_id": call_id, "outcome": outcome, **fields}
    )


def answer(call_id: str, content: str = "hi", item: int | None = None, **fields: Any) -> Answer:
    return Answer(item=item, request="r", attempt=attempt(call_id, **fields), content=content, at=2.0)


async def opened(kept: Kept, try_number: int = 1, **fields: Any) -> Journal:
    journal = Journal(kept, try_number, pauses=(0, 0), **fields)
    await journal.open()
    return journal


async def test_an_answer_is_replayed_by_a_later_try_and_by_another_process_in_the_same_try() -> None:
    kept = Kept()
    first = await opened(kept)
    await first.intend(intent("c1", 3))
    await first.answered(answer("c1", "hi", 3))
    for try_number in (1, 2, 5):
        later = await opened(kept, try_number)
        found = later.replay(3, "r")
        assert found is not None
        assert found.content == "hi"
        assert later.replay(4, "r") is later.replay(3, "other") is later.replay(None, "r") is None
        await later.finish("boom")


async def test_an_intent_without_an_answer_becomes_a_lost_call_that_may_have_been_billed() -> None:
    kept = Kept()
    first = await opened(kept)
    await first.intend(intent("c1", max_cost_usd=Decimal("0.25")))
    second = await opened(kept)
    (lost,) = second.history.attempts()
    assert (lost.call_id, lost.error_class, lost.possibly_billed) == ("c1", "lost", True)
    assert lost.max_cost_usd == second.history.spent() == Decimal("0.25")
    # On record with what the second process writes first; before that, who reads can tell.
    assert kept.history().attempts() == []
    assert kept.history().attempts(ended=True) == [lost]
    await second.finish(None)
    assert kept.history().attempts() == [lost]


async def test_a_process_that_was_taken_for_dead_overwrites_nothing_and_its_answer_counts_after_all() -> None:
    kept = Kept()
    frozen = await opened(kept)
    await frozen.intend(intent("c1"))
    other = await opened(kept)
    await other.intend(intent("c2"))
    await other.answered(answer("c2", "newer"))
    before = dict(kept)
    await frozen.answered(answer("c1", "older", cost_usd="0.5"))
    assert {key: kept[key] for key in before} == before
    assert [one.outcome for one in kept.history().attempts()] == ["ok", "ok"]
    assert kept.history().spent() == Decimal("0.5")
    third = await opened(kept)
    assert len(third.history.attempts()) == 2


async def test_entries_of_calls_that_run_together_share_a_write_and_each_waits_for_its_own() -> None:
    kept = Kept()
    journal = await opened(kept)
    await asyncio.gather(*(journal.intend(intent(f"c{n}", n)) for n in range(100)))
    assert kept.writes == 1
    await asyncio.gather(*(journal.answered(answer(f"c{n}", item=n)) for n in range(100)))
    assert kept.writes == 2
    await asyncio.gather(*(journal.intend(intent(f"d{n}", n)) for n in range(250)))
    assert kept.writes == 2 + 3
    assert len((await opened(kept)).history.answers) == 100


async def test_when_a_write_fails_it_is_tried_again_and_then_told_and_nothing_is_lost() -> None:
    kept = Kept()
    journal = await opened(kept)
    kept.fail = 2
    await journal.intend(intent("c1"))
    kept.fail = 3
    with pytest.raises(ConnectionError):
        await journal.answered(answer("c1"))
    journal.note(attempt("c2", "error"))
    await journal.finish("boom")
    history = kept.history()
    assert [one.call_id for one in history.attempts()] == ["c1", "c2"]
    assert (history.error, len(history.answers)) == ("boom", 1)


async def test_an_answer_that_turns_out_to_be_none_is_not_replayed() -> None:
    kept = Kept()
    journal = await opened(kept)
    await journal.answered(answer("c1", "no JSON"))
    journal.note(attempt("c1", "error", error_class="schema", cost_usd="0.1"))
    await journal.finish(None)
    later = await opened(kept, 2)
    assert later.replay(None, "r") is None
    assert [one.error_class for one in later.history.attempts()] == ["schema"]
    assert later.history.spent() == Decimal("0.1")


async def test_a_caller_that_is_cancelled_does_not_take_the_write_with_it() -> None:
    kept = Kept()
    journal = await opened(kept)
    call = asyncio.create_task(journal.intend(intent("c1")))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    await journal.flush()
    assert list(kept.history().open) == ["c1"]


async def test_a_step_that_asks_nobody_writes_nothing() -> None:
    kept = Kept()
    journal = await opened(kept)
    await journal.finish(None)
    assert kept == {}


async def test_what_no_database_can_hold_and_airflows_reserved_words_are_text_in_a_text() -> None:
    kept = Kept()
    journal = await opened(kept)
    hostile = '{"__classname__": "x", "__type": "dag"} nul \0'
    await journal.answered(answer("c1", hostile))
    (text,) = kept.values()
    assert text.isascii()
    assert "\0" not in text
    assert isinstance(json.loads(text), dict)
    found = (await opened(kept)).replay(None, "r")
    assert found is not None
    assert found.content == hostile


async def test_the_journal_of_another_step_is_read_whatever_try_it_is_at() -> None:
    kept = Kept()
    for try_number in (1, 3):
        journal = await opened(kept, try_number)
        await journal.answered(answer(f"c{try_number}", cost_usd="0.1"))
    assert (await load_history(kept.read)).spent() == Decimal("0.2")


def test_what_somebody_else_has_put_there_is_skipped() -> None:
    history = read_history(["no JSON", 7, None, '{"entries": 3}', '{"writer": "w", "entries": []}'])
    assert history.attempts(ended=True) == []


def test_amounts_come_back_to_the_cent() -> None:
    paid = attempt("c1", cost_usd=Decimal("0.000123456789"))
    text = json.dumps({"entries": [{"kind": "attempt", "attempt": json.loads(paid.model_dump_json())}]})
    assert read_history([text]).attempts() == [paid]


async def test_a_process_that_waited_before_its_first_call_does_not_take_the_place_of_the_one_that_took_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_FRESH_SECONDS", 0.0)
    kept = Kept()
    waiting = await opened(kept)
    other = await opened(kept)
    await other.intend(intent("c1"))
    await other.answered(answer("c1", "newer"))
    await waiting.intend(intent("c2"))
    found = (await opened(kept, 2)).replay(None, "r")
    assert found is not None
    assert found.content == "newer"
    assert sorted(kept.history().open) == ["c2"]


async def test_a_try_that_replays_all_leaves_no_gap_for_those_who_read_the_journal() -> None:
    kept = Kept()
    first = await opened(kept)
    await first.answered(answer("c1", cost_usd="0.1"))
    for try_number in (2, 3, 4):
        again = await opened(kept, try_number)
        again.replayed += 1
        await again.finish(None)
    last = await opened(kept, 5)
    await last.answered(answer("c2", cost_usd="0.2"))
    assert (await load_history(kept.read)).spent() == Decimal("0.3")


async def test_what_is_reserved_is_not_counted_twice() -> None:
    kept = Kept()
    journal = await opened(kept)
    await journal.intend(intent("c1", max_cost_usd=Decimal("0.25")))
    assert journal.history.spent() == Decimal("0.25")
    assert journal.history.spent({"c1"}) == 0
    await journal.answered(answer("c1", cost_usd="0.1"))
    assert journal.history.spent({"c1"}) == Decimal("0.1")
