"""What is on record of one request: an answer that is there already, and each attempt to get one."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, JsonValue, ValidationError

from cognitionos_provider.llm.answer import parse_object
from cognitionos_provider.llm.chain import Candidate
from cognitionos_provider.llm.desk import Desk, Tellers
from cognitionos_provider.llm.failure import Failure
from cognitionos_provider.llm.journal import Answer
from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse

if TYPE_CHECKING:
    from cognitionos_provider.llm.call import Call

__all__ = ["FAREWELL_SECONDS", "Record"]

FAREWELL_SECONDS = 0.2
"""How long a call whose caller has gone, or whose time is up, may take to put its end on record."""

_log = logging.getLogger(__name__)


class _Cached(BaseModel):
    """An answer as the cache keeps it."""

    provider: str
    model: str
    connection: str
    content: str
    finish_reason: str | None


@dataclass
class Record:
    """The record of one call: in its journal, in the cache, and with those who want to be told."""

    request: LLMRequest
    desk: Desk
    tellers: Tellers
    hash: str
    call: Call

    async def known(self) -> LLMResponse | None:
        """Return the answer that the journal of this run, or the cache, has."""
        if (journal := self.tellers.journal) is not None:
            found = journal.replay(self.tellers.item, self.hash)
            if found is not None:
                output, failure = await self.check(found.content)
                if failure is not None:
                    # Its process died before it could look at the answer.
                    broken = {
                        "outcome": "error",
                        "error_class": failure.error_class,
                        "message": failure.message,
                    }
                    journal.note(found.attempt.model_copy(update=broken))
                else:
                    journal.replayed += 1
                    return self.response(
                        found.attempt, found.content, found.finish_reason, output, source="journal"
                    )
        return await self._cached()

    def _may_cache(self) -> bool:
        return self.request.cache_ttl_seconds > 0 and self.request.temperature == 0

    def _cache_key(self) -> str:
        """What is asked, and whom: the models that "the default" means, and the accounts, are not in the request."""
        asked = "\n".join([self.hash, *map(self.desk.key_of, self.call.chain)])
        return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()

    async def _cached(self) -> LLMResponse | None:
        if not self._may_cache() or (stored := await self.desk.cache.get(self._cache_key())) is None:
            return None
        try:
            kept = _Cached.model_validate_json(stored)
        except ValidationError:
            return None
        attempt = Attempt(
            provider=kept.provider,
            model=kept.model,
            connection=kept.connection,
            call_id=uuid.uuid4().hex,
            outcome="skipped",
            error_class="cached",
            message="answered from the cache; nothing was sent",
        )
        output, failure = await self.check(kept.content)
        if failure is not None:
            return None
        self.call.attempts.append(attempt)
        await self.answered(attempt, kept.content, kept.finish_reason)
        await self._tell(attempt)
        return self.response(attempt, kept.content, kept.finish_reason, output, source="cache")

    async def check(self, content: str) -> tuple[JsonValue, Failure | None]:
        """Hold an answer to the schema. It may take its time, but not more than there is."""
        if self.request.output_schema is None:
            return None, None
        try:
            async with asyncio.timeout(max(self.call.left, 0) + FAREWELL_SECONDS):
                output, problem = await asyncio.to_thread(parse_object, content, self.request.output_schema)
        except TimeoutError:
            return None, Failure("timeout", "the time was up while the answer was checked")
        if problem is not None:
            return None, Failure("schema", f"the answer breaks output_schema: {problem}")
        return output, None

    def response(
        self,
        attempt: Attempt,
        content: str,
        finish_reason: str | None,
        output: JsonValue,
        *,
        source: Literal["provider", "journal", "cache"] = "provider",
    ) -> LLMResponse:
        """Make the response of an answer that was checked."""
        return LLMResponse(
            content=content,
            provider=attempt.provider,
            model=attempt.model,
            connection=attempt.connection,
            usage=attempt.usage,
            latency_ms=self.desk.milliseconds_since(self.call.started),
            cost_usd=attempt.cost_usd,
            finish_reason=finish_reason,
            output=output,
            source=source,
            attempts=self.call.attempts,
        )

    async def add(self, attempt: Attempt, candidate: Candidate) -> None:
        """Put an attempt on record. One that brought an answer is in the journal already."""
        self.call.attempts.append(attempt)
        self.call.last[candidate] = attempt
        if self.tellers.journal is not None and attempt.outcome != "ok":
            self.tellers.journal.note(attempt)
        await self._tell(attempt)

    async def _tell(self, attempt: Attempt) -> None:
        if self.tellers.on_attempt is None:
            return
        try:
            told = self.tellers.on_attempt(attempt)
            if inspect.isawaitable(told):
                await told
        except Exception:  # noqa: BLE001 - an answer that was paid for is worth more than a line about it
            _log.exception("on_attempt failed for %s:%s", attempt.provider, attempt.model)

    async def answered(self, attempt: Attempt, content: str, finish_reason: str | None) -> None:
        """Put an answer into the journal, before anything is done with it."""
        journal = self.tellers.journal
        if journal is None:
            return
        answer = Answer(
            item=self.tellers.item,
            request=self.hash,
            attempt=attempt,
            content=content,
            finish_reason=finish_reason,
            at=journal.wall_clock(),
        )
        try:
            async with asyncio.timeout(max(self.call.left, 0) + FAREWELL_SECONDS):
                await journal.answered(answer)
        except Exception as error:  # noqa: BLE001 - its intent is on record, so that the ledger knows of the money
            _log.error("An answer of %s could not be put on record: %r", attempt.model, error)

    async def keep(self, attempt: Attempt, content: str, finish_reason: str | None) -> None:
        """Keep an answer for other runs, where that is asked for; not one that was cut off."""
        if not self._may_cache() or finish_reason == "length":
            return
        kept = _Cached(
            provider=attempt.provider,
            model=attempt.model,
            connection=attempt.connection or attempt.provider,
            content=content,
            finish_reason=finish_reason,
        )
        await self.desk.cache.put(self._cache_key(), kept.model_dump_json(), self.request.cache_ttl_seconds)
