"""One call to a provider, with all that goes with it.

In this order: money is reserved, room is waited for, the breaker is asked, the call is put on record, and sent; and
the answer is put on record before anything is done with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import JsonValue

from cognitionos_provider.exceptions import BudgetExceededError
from cognitionos_provider.llm.answer import flaw, text_of
from cognitionos_provider.llm.breaker import Admission
from cognitionos_provider.llm.budget import Reservation
from cognitionos_provider.llm.chain import Candidate
from cognitionos_provider.llm.client import Client, Wire
from cognitionos_provider.llm.desk import Desk, Tellers
from cognitionos_provider.llm.failure import Failure, read_failure
from cognitionos_provider.llm.journal import Intent
from cognitionos_provider.llm.limits import NoRoomError
from cognitionos_provider.llm.policy import rule_for
from cognitionos_provider.llm.pricing import input_bound, price
from cognitionos_provider.llm.record import FAREWELL_SECONDS, Record
from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse, Message, Usage

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse

    from cognitionos_provider.llm.call import Call

__all__ = ["Sending"]

# The most tokens of an answer under a budget, where the request names no number: without one, an answer has no
# upper price.
_BUDGETED_TOKENS = 4096
# A step with a short time of its own says nothing about a provider that is merely slow; but a probe has to tell.
_TELLING_TIMEOUT = 2.0
_LONGEST_COOLDOWN = 3600.0
# Room may come sooner than was foreseen.
_LONGEST_QUEUE_SECONDS = 1.0
# A call may be put on record, before and after, beside the time that its sending may take.
_BESIDE_SENDING = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one call, which was given ``seconds``."""

    attempt: Attempt
    seconds: float
    response: LLMResponse | None
    content: str

    @property
    def usage(self) -> Usage | None:
        return self.attempt.usage


@dataclass
class Sending:
    """Sends one request to candidates, one call at a time."""

    request: LLMRequest
    desk: Desk
    tellers: Tellers
    record: Record
    call: Call

    def __post_init__(self) -> None:
        # A schema is part of the input.
        schema = self.request.output_schema
        self._schema_bytes = 0 if schema is None else len(json.dumps(schema))
        self._thrifty = bool(self.tellers.budgets) or self.request.max_cost_usd is not None
        self._limited = self.request
        if self._thrifty and self.request.max_tokens is None:
            self._limited = self.request.model_copy(update={"max_tokens": _BUDGETED_TOKENS})

    async def send(
        self, candidate: Candidate, client: Client, messages: list[Message]
    ) -> tuple[LLMResponse | None, str]:
        """Send one call; the response, or None and the text of an answer that is none. It is on record then.

        Raises what ends the whole call: no money, no time, no record.
        """
        if await self._is_open(candidate):
            return None, ""
        call_id = uuid.uuid4().hex
        bound = self._cost_bound(candidate, messages)
        reservation = await self._reserve(candidate, bound, call_id) if self._thrifty else None
        if self._thrifty and reservation is None:
            return None, ""
        wire = Wire(call_id)
        result: _Result | None = None
        self.desk.sending.add(call_id)
        try:
            limits = client.connection.limits
            async with self.desk.gates.enter(
                self.desk.key_of(candidate),
                limits,
                tokens=self._tokens_estimate(messages) if limits.tokens_per_minute else 0,
                group=self.tellers.group,
                timeout=self.call.patience(candidate),
                hold_seconds=self.desk.attempt_seconds + _BESIDE_SENDING,
            ) as permit:
                admission = await self.desk.breakers.admit(
                    self.desk.key_of(candidate), probe_seconds=self.desk.attempt_seconds + _BESIDE_SENDING
                )
                if not admission.allowed:
                    await self._not_admitted(candidate, admission)
                    return None, ""
                try:
                    result = await self._converse(candidate, client, messages, wire, bound)
                except BaseException:
                    await self._hurried(
                        self.desk.breakers.left(self.desk.key_of(candidate), probe=admission.probe)
                    )
                    raise
                if result.usage is not None:
                    permit.used(result.usage.total_tokens)
                await self._report(candidate, result, admission)
        except NoRoomError as error:
            self.call.not_before(candidate, min(max(error.wait, 0.001), _LONGEST_QUEUE_SECONDS))
            await self.call.skip(candidate, "no_room", f"its limit ({error.limit}) leaves no room in time")
            return None, ""
        finally:
            self.desk.sending.discard(call_id)
            if reservation is not None:
                # It goes on by itself where Redis takes its time; the answer does not wait for that.
                await self._hurried(asyncio.shield(reservation.settle(_spent(result, bound, wire))))
        return result.response, result.content

    async def _is_open(self, candidate: Candidate) -> bool:
        """Whether the breaker is known to be open, so that there is nothing to queue for."""
        if self.desk.breakers.state(self.desk.key_of(candidate)) != "open":
            return False
        admission = await self.desk.breakers.admit(self.desk.key_of(candidate))
        if not admission.allowed:
            await self._not_admitted(candidate, admission)
            return True
        # It may be asked by now; again when there is room for it.
        await self.desk.breakers.left(self.desk.key_of(candidate), probe=admission.probe)
        return False

    async def _not_admitted(self, candidate: Candidate, admission: Admission) -> None:
        self.call.not_before(candidate, max(admission.wait, 0.001))
        await self.call.skip(candidate, "circuit_open", "it failed before and is left alone for a while")

    def _cost_bound(self, candidate: Candidate, messages: list[Message]) -> Decimal | None:
        """Return the most that a call can cost, in USD; None where that can't be told."""
        most = self._limited.max_tokens
        if most is None:
            return None
        usage = Usage(
            prompt_tokens=input_bound(messages, self._schema_bytes), completion_tokens=most, total_tokens=0
        )
        return price(candidate.provider, candidate.model, usage, self.desk.price_of(candidate))

    def _tokens_estimate(self, messages: list[Message]) -> int:
        # Four bytes a token is the usual estimate for English; what was really used corrects it afterwards.
        texts = sum(len(message.content) for message in messages) + self._schema_bytes
        return texts // 4 + (self._limited.max_tokens or 256)

    async def _reserve(self, candidate: Candidate, bound: Decimal | None, call_id: str) -> Reservation | None:
        """Reserve the money for a call; None for a model that may not be asked without a known price."""
        if bound is None and self.request.unpriced == "refuse":
            reason = "its price is not known, and the budget does not allow that; set one in LLM_PRICES"
            await self.call.skip(candidate, "unpriced", reason)
            return None
        cost = bound or Decimal(0)
        most = self.request.max_cost_usd
        try:
            if most is not None and cost > most:
                raise BudgetExceededError(
                    f"A call to {candidate} may cost up to ${cost:.6f}, and max_cost_usd is ${most:.6f} "
                    "(nothing was sent): shorten its input, or lower max_tokens"
                )
            async with asyncio.timeout(max(self.call.left, 0) + FAREWELL_SECONDS):
                return await self.desk.budgets.reserve(
                    self.tellers.budgets,
                    cost,
                    call_id=call_id,
                    timeout=max(self.call.left, 0),
                    hold_seconds=self.call.left + self.desk.attempt_seconds,
                )
        except TimeoutError:
            self.call.expire("the time was up while money was reserved")
        except BudgetExceededError as error:
            await self.call.skip(candidate, "budget", str(error))
            self.call.refuse(error)

    async def _converse(
        self,
        candidate: Candidate,
        client: Client,
        messages: list[Message],
        wire: Wire,
        bound: Decimal | None,
    ) -> _Result:
        """Put the call on record, send it, and put on record what came of it."""
        await self._intend(candidate, wire.call_id, bound)
        if self.tellers.on_asking is not None:
            self.tellers.on_asking(candidate.provider, candidate.model)
        seconds = max(min(self.call.left, self.desk.attempt_seconds), 0.001)
        begun = self.desk.clock()
        answer: ModelResponse | None = None
        content = ""
        failure: Failure | None
        try:
            # The SDK's own timeout is per read, so a body that trickles in would never trip it.
            async with asyncio.timeout(seconds):
                answer = await client.ask(
                    candidate.model, self._limited, messages, seconds=seconds, wire=wire
                )
            content = text_of(answer, as_object=self.request.output_schema is not None)
            failure = flaw(answer, content)
        except asyncio.CancelledError:
            gone = Failure("cancelled", "the call was cancelled")
            await self._hurried(
                self.record.add(self._attempt(candidate, begun, gone, wire, bound), candidate)
            )
            raise
        except Exception as error:  # noqa: BLE001 - whatever an answer sets off, the next candidate is asked
            failure = read_failure(error, seconds=seconds, secrets=self._secrets())
        usage, cost = self._bill(candidate, answer)
        attempt = self._attempt(candidate, begun, failure, wire, bound, usage=usage, cost=cost)
        output: JsonValue = None
        if failure is None and answer is not None:
            await self.record.answered(attempt, content, answer.finish_reason)
            output, failure = await self.record.check(content)
            if failure is not None:
                attempt = self._attempt(candidate, begun, failure, wire, bound, usage=usage, cost=cost)
        await self.record.add(attempt, candidate)
        if failure is not None or answer is None:
            return _Result(attempt, seconds, None, content)
        await self.record.keep(attempt, content, answer.finish_reason)
        return _Result(
            attempt, seconds, self.record.response(attempt, content, answer.finish_reason, output), content
        )

    async def _intend(self, candidate: Candidate, call_id: str, bound: Decimal | None) -> None:
        journal = self.tellers.journal
        if journal is None:
            return
        intent = Intent(
            call_id=call_id,
            item=self.tellers.item,
            request=self.record.hash,
            connection=candidate.connection,
            provider=candidate.provider,
            model=candidate.model,
            at=journal.wall_clock(),
            max_cost_usd=bound,
        )
        try:
            async with asyncio.timeout(max(self.call.left, 0.001)):
                await journal.intend(intent)
        except asyncio.CancelledError:
            # It may be on record all the same, and was not sent.
            journal.note(self._unsent(candidate, call_id, "the step ended before the call was sent"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever the channel to Airflow raises
            reason = (
                f"the call could not be put on record ({type(error).__name__}: {error}); nothing was sent"
            )
            await self.record.add(self._unsent(candidate, call_id, reason), candidate)
            if isinstance(error, TimeoutError):
                self.call.expire(reason)
            self.call.give_up(f"{candidate} was not asked: {reason}")

    @staticmethod
    def _unsent(candidate: Candidate, call_id: str, reason: str) -> Attempt:
        return Attempt(
            provider=candidate.provider,
            model=candidate.model,
            connection=candidate.connection,
            call_id=call_id,
            outcome="skipped",
            error_class="journal",
            message=reason,
        )

    def _attempt(
        self,
        candidate: Candidate,
        begun: float,
        failure: Failure | None,
        wire: Wire,
        bound: Decimal | None,
        *,
        usage: Usage | None = None,
        cost: Decimal | None = None,
    ) -> Attempt:
        # Sent, and neither an answer with its usage nor an error by the provider's own word came back.
        unknown = (failure is None or failure.http_status is None) and usage is None and wire.may_have_arrived
        lost = failure is not None and unknown
        return Attempt(
            provider=candidate.provider,
            model=candidate.model,
            connection=candidate.connection,
            call_id=wire.call_id,
            outcome="ok" if failure is None else "error",
            error_class=failure.error_class if failure else None,
            http_status=failure.http_status if failure else None,
            latency_ms=self.desk.milliseconds_since(begun),
            usage=usage,
            cost_usd=cost,
            retry_after=failure.retry_after if failure else None,
            possibly_billed=lost,
            max_cost_usd=bound if unknown else None,
            message=failure.message if failure else None,
        )

    def _bill(
        self, candidate: Candidate, answer: ModelResponse | None
    ) -> tuple[Usage | None, Decimal | None]:
        counted = answer.usage if answer is not None else None
        # A server that reports no usage shows as zeros.
        if answer is None or counted is None or not (counted.input_tokens or counted.output_tokens):
            return None, None
        usage = Usage(
            prompt_tokens=counted.input_tokens,
            completion_tokens=counted.output_tokens,
            total_tokens=counted.input_tokens + counted.output_tokens,
        )
        own = self.desk.price_of(candidate)
        # The answer names the exact version behind an alias; a compatible server may name anything.
        for name in (answer.model_name, candidate.model):
            if name and (cost := price(candidate.provider, name, counted, own)) is not None:
                return usage, cost
        return usage, None

    async def _report(self, candidate: Candidate, result: _Result, admission: Admission) -> None:
        """Tell the breaker what a call shows of the candidate."""
        breakers, key, attempt = self.desk.breakers, self.desk.key_of(candidate), result.attempt
        rule = rule_for(attempt.error_class)
        if attempt.outcome == "ok" or rule.breaker == "alive":
            await breakers.succeeded(key, probe=admission.probe)
            self.call.not_before(candidate, attempt.retry_after)
            return
        if rule.alert:
            _log.critical("%s: %s; somebody has to mend this", candidate, attempt.message)
        short = (
            attempt.error_class == "timeout"
            and not admission.probe
            and result.seconds < min(self.desk.attempt_seconds, _TELLING_TIMEOUT)
        )
        if rule.breaker == "nothing" or (short and attempt.http_status is None):
            await breakers.left(key, probe=admission.probe)
            return
        closed_for = await breakers.failed(
            key,
            probe=admission.probe,
            at_once=rule.breaker == "opens",
            # One header must not shut a model off for everybody for a year.
            retry_after=None if attempt.retry_after is None else min(attempt.retry_after, _LONGEST_COOLDOWN),
            cooldown=rule.cooldown,
        )
        self.call.not_before(candidate, max(attempt.retry_after or 0.0, closed_for))

    async def _hurried(self, work: Awaitable[object]) -> None:
        """Do something in spite of a caller that has gone, if it does not take long."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await work
        except Exception:  # noqa: BLE001 - what sets this off matters more
            _log.debug("what was to be told at the end of a call took too long", exc_info=True)

    def _secrets(self) -> list[str]:
        return [each.secret for each in self.desk.clients.values() if each.secret]


def _spent(result: _Result | None, bound: Decimal | None, wire: Wire) -> Decimal:
    """Return what a call is taken to have cost: its bound, where its answer or its usage is not known."""
    if result is None:
        return (bound or Decimal(0)) if wire.may_have_arrived else Decimal(0)
    return result.attempt.cost_usd or result.attempt.max_cost_usd or Decimal(0)
