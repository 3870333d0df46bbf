"""The journal of one step: each call before it is sent, each answer before anything is done with it.

What is in the journal is never paid again: a retry, a rerun, and another process that takes the step over after
this one has died, find the answer here. A call that was sent and whose answer is not here is ``lost``: it may have
been billed, and is on record as that.

A store has nothing but "read this key" and "write this key" (Airflow's XCom and task state store have no
compare-and-set, and can't list keys), and a process that was frozen may wake up and write. So no two writers share a
key. A try has numbered slots; a process that takes the step up claims the first free one by writing its own random
name into it, together with its first entries. Its further entries are in keys that hold that name::

    cognitionos.journal.0001.00                    {"writer": "9f2c...", "entries": [...]}
    cognitionos.journal.0001.00.9f2c....000001     {"entries": [...]}
    cognitionos.journal.0001.00.9f2c....000002     {"entries": [...], "last": true}
    cognitionos.journal.0001.01                    {"writer": "03ab...", ...}   another process took over

The slot is looked at once more if more than a second has passed since. Only a process that is frozen in the instant
between that look and its write can hide, when it wakes up, the name of the one that took over; it still can't touch
that one's further entries, which the facade finds by their prefix.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cognitionos_provider.llm.request import USD, Attempt

__all__ = [
    "JOURNAL_KEY_PREFIX",
    "Answer",
    "Ended",
    "History",
    "Intent",
    "Journal",
    "JournalStore",
    "Made",
    "load_history",
    "read_history",
]

JOURNAL_KEY_PREFIX = "cognitionos.journal."

# Airflow's database may be away for a minute. Whoever waits for a write has a deadline of its own.
_WRITE_PAUSES = (0.1, 0.5, 1, 2, 4, 8, 15, 30)
# A process that was frozen for longer may have been replaced meanwhile.
_FRESH_SECONDS = 1.0
# More entries than this are written in several steps, each of which holds the event loop for some milliseconds.
_MOST_ENTRIES = 100

_log = logging.getLogger(__name__)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class Intent(_Entry):
    """A call that is about to be sent. ``request`` is the hash of what is asked, ``at`` seconds since 1970."""

    kind: Literal["intent"] = "intent"
    call_id: str
    item: int | None = None
    request: str
    connection: str
    provider: str
    model: str
    at: float
    max_cost_usd: USD | None = None


class Answer(_Entry):
    """An answer as it came, with the attempt that brought it."""

    kind: Literal["answer"] = "answer"
    item: int | None = None
    request: str
    attempt: Attempt
    content: str
    finish_reason: str | None = None
    at: float


class Made(_Entry):
    """An attempt that brought no answer, or what became of one: an answer that was looked at and is none."""

    kind: Literal["attempt"] = "attempt"
    attempt: Attempt


class Ended(_Entry):
    """The end of a try. ``error`` says why it failed."""

    kind: Literal["ended"] = "ended"
    error: str | None = None


Entry = Annotated[Intent | Answer | Made | Ended, Field(discriminator="kind")]


class _Batch(BaseModel):
    """What one key holds."""

    writer: str | None = None
    agent_id: str | None = None
    entries: list[Entry]
    last: bool = False


_BATCH: TypeAdapter[_Batch] = TypeAdapter(_Batch)


class History:
    """What entries add up to."""

    def __init__(self) -> None:
        self.answers: dict[tuple[int | None, str], Answer] = {}
        self.open: dict[str, Intent] = {}
        self.agent_id: str | None = None
        self.error: str | None = None
        """Of the last try that has ended."""
        self._attempts: dict[str, Attempt] = {}
        self._answered: dict[str, tuple[int | None, str]] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries in the order in which they were written."""
        for entry in entries:
            if isinstance(entry, Intent):
                if entry.call_id not in self._attempts:
                    self.open[entry.call_id] = entry
            elif isinstance(entry, Ended):
                self.error = entry.error
            else:
                self._close(entry)

    def _close(self, entry: Answer | Made) -> None:
        attempt = entry.attempt
        call_id = attempt.call_id or f"#{len(self._attempts)}"
        known = self._attempts.get(call_id)
        # A process that was taken for dead may bring the answer after all.
        if attempt.error_class == "lost" and known is not None:
            return
        self.open.pop(call_id, None)
        self._attempts[call_id] = attempt
        if isinstance(entry, Answer):
            key = self._answered[call_id] = entry.item, entry.request
            self.answers[key] = entry
        elif (key_of_answer := self._answered.pop(call_id, None)) is not None:
            # A later look at the answer found that it is none.
            self.answers.pop(key_of_answer, None)

    def attempts(self, *, ended: bool = False) -> list[Attempt]:
        """Return the attempts in order; of a step that has ``ended``, also those that nobody will finish."""
        lost = [lost_attempt(intent) for intent in self.open.values()] if ended else []
        return [*self._attempts.values(), *lost]

    def spent(self, reserved: Collection[str] = ()) -> Decimal:
        """Return what was or may have been paid, in USD; calls in flight at the most they can cost.

        ``reserved`` are the calls in flight whose money is reserved, and counted so.
        """
        total = Decimal(0)
        for attempt in self.attempts(ended=True):
            if attempt.call_id in reserved and attempt.call_id in self.open:
                continue
            total += attempt.cost_usd or attempt.max_cost_usd or 0
        return total


def lost_attempt(intent: Intent) -> Attempt:
    """Return the attempt of a call whose process died before it could tell how the call ended."""
    return Attempt(
        provider=intent.provider,
        model=intent.model,
        connection=intent.connection,
        call_id=intent.call_id,
        outcome="error",
        error_class="lost",
        possibly_billed=True,
        max_cost_usd=intent.max_cost_usd,
        message="the process that made the call ended before the answer was on record",
    )


def read_history(stored: Iterable[Any]) -> History:
    """Add up what the keys of a step hold, in the order of the keys; skips what somebody else has put there."""
    history = History()
    for text in stored:
        batch = _read_batch(text)
        if batch is not None:
            history.agent_id = batch.agent_id or history.agent_id
            history.add(batch.entries)
    return history


def _read_batch(text: Any) -> _Batch | None:
    try:
        return _BATCH.validate_json(text) if isinstance(text, str) else None
    except ValidationError:
        return None


class JournalStore(Protocol):
    """Where a step's journal is kept."""

    async def read(self, key: str) -> str | None:
        """Return what was written under a key; None if nothing was."""

    async def write(self, key: str, text: str) -> None:
        """Write under a key; durable when it returns."""


Read = Callable[[str], Awaitable[str | None]]


async def load_history(read: Read) -> History:
    """Read the journal of a step that somebody else runs, whatever try it is at."""
    history = History()
    try_number = empty = 0
    # A try that was skipped by its condition leaves nothing, and may be followed by one that was not.
    while empty < 2:
        try_number += 1
        empty = 0 if await _read_try(read, try_number, history) else empty + 1
    return history


async def _read_try(read: Read, try_number: int, history: History) -> int:
    """Read one try; return its first free slot."""
    slot = 0
    while (claim := _read_batch(await read(_slot_key(try_number, slot)))) is not None:
        batch: _Batch | None = claim
        sequence = 0
        while batch is not None:
            history.agent_id = batch.agent_id or history.agent_id
            history.add(batch.entries)
            if batch.last:
                break
            sequence += 1
            batch = _read_batch(await read(f"{_slot_key(try_number, slot)}.{claim.writer}.{sequence:06d}"))
        slot += 1
    return slot


def _slot_key(try_number: int, slot: int) -> str:
    return f"{JOURNAL_KEY_PREFIX}{try_number:04d}.{slot:02d}"


class Journal:
    """The journal of one step, for one process that has taken the step up.

    Entries of calls that run at the same time share a write: each waits until the write that holds it is done.
    ``item`` is the index of a fan-out's item, None where there is none.
    """

    def __init__(
        self,
        store: JournalStore,
        try_number: int,
        *,
        agent_id: str = "default",
        wall_clock: Callable[[], float] = time.time,
        pauses: tuple[float, ...] = _WRITE_PAUSES,
    ) -> None:
        self.history = History()
        self.replayed = 0
        self.wall_clock = wall_clock
        self._store = store
        self._try_number = try_number
        self._agent_id = agent_id
        self._pauses = pauses
        self._writer = uuid.uuid4().hex[:12]
        self._slot = 0
        self._opened = 0.0
        self._sequence = 0
        self._unwritten: list[tuple[Entry, asyncio.Future[None] | None]] = []
        self._task: asyncio.Task[None] | None = None
        self._last = False

    async def open(self) -> None:
        """Read what earlier tries, and processes that died in this one, have left.

        Raises what the store raises: without it, an answer might be paid twice.
        """
        self.history, self._unwritten = History(), []
        self._opened = time.monotonic()
        for try_number in range(1, self._try_number + 1):
            self._slot = await _read_try(self._store.read, try_number, self.history)
        # On record with this process' first entries, and not by a write of its own.
        lost = [Made(attempt=lost_attempt(intent)) for intent in self.history.open.values()]
        self._unwritten += [(entry, None) for entry in lost]
        self.history.add(lost)

    def replay(self, item: int | None, request: str) -> Answer | None:
        """Return the accepted answer to a request, if the journal has one."""
        return self.history.answers.get((item, request))

    async def intend(self, intent: Intent) -> None:
        """Put a call on record; when this returns, it may be sent. Raises what the store raises."""
        self.history.add([intent])
        await self._commit(intent)

    async def answered(self, answer: Answer) -> None:
        """Put an answer on record; when this returns, something may be done with it."""
        self.history.add([answer])
        await self._commit(answer)

    def note(self, attempt: Attempt) -> None:
        """Put on record, without a wait, an attempt without an answer, or that an answer was looked at and is none."""
        entry = Made(attempt=attempt)
        self.history.add([entry])
        self._unwritten.append((entry, None))
        # One that was not made is no news: it goes with the next entry.
        if attempt.outcome == "error":
            self._wake()

    async def flush(self) -> None:
        """Wait until what was noted is on record, or can't be put there now."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def finish(self, error: str | None) -> None:
        """Put on record what is not yet, and why the try failed. Writes nothing where there is nothing to say."""
        await self.flush()
        # A try that replayed all it asked for says at least that it was there: who reads the journal stops at a gap.
        if error is None and not self._unwritten and not (self.replayed and not self._sequence):
            return
        self._last = True
        await self._commit(Ended(error=error))

    async def _commit(self, entry: Entry) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((entry, done))
        self._wake()
        # A caller that is cancelled must not take the write of others with it.
        await asyncio.shield(done)

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        # Calls that start in the same turn of the loop share the first write.
        await asyncio.sleep(0)
        while self._unwritten:
            batch = self._unwritten[:_MOST_ENTRIES]
            last = self._last and len(batch) == len(self._unwritten)
            try:
                await self._write([entry for entry, _ in batch], last=last)
            except Exception as error:  # noqa: BLE001 - handed to those who wait
                # Kept, and written with the next ones: the ledger must not lose what a caller could not wait for.
                self._unwritten[: len(batch)] = [(entry, None) for entry, _ in batch]
                for _, done in batch:
                    if done is not None and not done.done():
                        done.set_exception(error)
                        # Whoever waited may have gone.
                        done.exception()
                if not any(done for _, done in self._unwritten):
                    return
            else:
                del self._unwritten[: len(batch)]
                for _, done in batch:
                    if done is not None and not done.done():
                        done.set_result(None)

    async def _write(self, entries: list[Entry], *, last: bool) -> None:
        if not self._sequence and time.monotonic() - self._opened > _FRESH_SECONDS:
            # The step has waited, or its process was frozen, since it looked for a free slot.
            while await self._store.read(_slot_key(self._try_number, self._slot)) is not None:
                self._slot += 1
        slot = _slot_key(self._try_number, self._slot)
        key = f"{slot}.{self._writer}.{self._sequence:06d}" if self._sequence else slot
        said = [one.model_dump(mode="json", exclude_defaults=True) | {"kind": one.kind} for one in entries]
        body: dict[str, Any] = {"entries": said}
        if not self._sequence:
            body |= {"writer": self._writer, "agent_id": self._agent_id}
        if last:
            body["last"] = True
        # ASCII: half a surrogate pair passes as an escape.
        text = json.dumps(body, separators=(",", ":"))
        for pause in self._pauses:
            try:
                await self._store.write(key, text)
                break
            except Exception as error:  # noqa: BLE001 - whatever a channel to Airflow raises, once more after a while
                _log.warning("The journal could not be written, trying again: %r", error)
            await asyncio.sleep(pause)
        else:
            await self._store.write(key, text)
        self._sequence += 1
