"""Keeps the record of a try while the try is under way."""

from __future__ import annotations

import asyncio
from typing import Protocol

from cognitionos_provider.llm.request import Attempt
from cognitionos_provider.record import StepRecord

__all__ = ["RecordKeeper", "Recorder"]


class RecordKeeper(Protocol):
    """Where a record is kept, and the task's log."""

    async def read_record(self) -> StepRecord | None:
        """Return what was kept of this try before, by a process that died; None in most cases."""

    async def write_record(self, record: StepRecord) -> None:
        """Keep the record of this try, in place of what was kept of it before."""

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write a line into the task's log."""


class Recorder:
    """Keeps the record of a try in the store, one write at a time, never more often than a write takes."""

    def __init__(self, keeper: RecordKeeper) -> None:
        self._keeper = keeper
        self._record = StepRecord()
        self._dirty = False
        self._writer: asyncio.Task[None] | None = None

    async def resume(self) -> None:
        """Go on with the record of a process that died in the middle of this try."""
        try:
            before = await self._keeper.read_record()
        except Exception as error:  # noqa: BLE001 - a record that can't be read must not fail the step
            self._keeper.log("warning", f"what this try did before could not be read: {error!r}")
            return
        if before is not None:
            self._record.attempts[:0] = before.attempts

    async def add(self, attempt: Attempt) -> None:
        """Put a call on record, and into the task's log."""
        self._record.attempts.append(attempt)
        self._keeper.log(*_log_line(attempt))
        self._dirty = True
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def finish(self, error: str | None) -> None:
        """Keep what is not kept yet.

        :param error: why the try failed, or None.
        """
        if error is not None:
            self._record.error = error
            self._dirty = True
        if self._writer is not None:
            try:
                await self._writer
            except Exception:  # noqa: BLE001 - once more, with what has come since
                self._dirty = True
        await self._write()

    def last_failure(self) -> str:
        """Return the end of a sentence that says how the last failed call failed, or nothing."""
        failed = [attempt for attempt in self._record.attempts if attempt.outcome == "error"]
        return (
            f"; the last call failed: {failed[-1].provider}:{failed[-1].model}: {failed[-1].message}"
            if failed
            else ""
        )

    async def _write(self) -> None:
        while self._dirty:
            self._dirty = False
            await self._keeper.write_record(self._record)


def _log_line(attempt: Attempt) -> tuple[str, str]:
    asked = f"{attempt.provider}:{attempt.model}"
    if attempt.outcome == "ok":
        cost = "unknown price" if attempt.cost_usd is None else f"${attempt.cost_usd:.6f}"
        tokens = f"{attempt.usage.total_tokens} tokens" if attempt.usage else "no usage told"
        return "info", f"{asked} answered in {attempt.latency_ms:.0f} ms: {tokens}, {cost}"
    if attempt.outcome == "skipped":
        return "warning", f"{asked} skipped: {attempt.message}"
    return "warning", f"{asked} failed after {attempt.latency_ms:.0f} ms: {attempt.message}"
