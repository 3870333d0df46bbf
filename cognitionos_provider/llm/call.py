"""One ``generate`` call: the passes over the chain, the tries of a candidate, the deadline.

Each call to a provider is one :class:`~cognitionos_provider.llm.attempt.Sending`; here is decided what comes next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from cognitionos_provider.exceptions import (
    AllModelsFailedError,
    BudgetExceededError,
    DeadlineExceededError,
    LLMError,
    RequestRejectedError,
)
from cognitionos_provider.llm.attempt import Sending
from cognitionos_provider.llm.chain import Candidate
from cognitionos_provider.llm.desk import Desk, Tellers
from cognitionos_provider.llm.policy import Action, action_for, backoff, wait_before_pass
from cognitionos_provider.llm.record import Record
from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse, Message, Retry

__all__ = ["Call", "request_hash"]

_ONE_PASS = Retry(max_attempts=1)
# Between two looks at a chain of which nothing could be asked.
_LEAST_WAIT = 0.05


def request_hash(request: LLMRequest) -> str:
    """Return what tells what is asked, and whom; not for how long or how often."""
    asked = request.model_dump(
        mode="json", include={"messages", "model", "models", "temperature", "max_tokens", "output_schema"}
    )
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Call:
    """The state of one call. ``started`` is a time of the desk's clock."""

    request: LLMRequest
    chain: Sequence[Candidate]
    desk: Desk
    tellers: Tellers
    started: float
    attempts: list[Attempt] = field(default_factory=list)
    last: dict[Candidate, Attempt] = field(default_factory=dict)
    _ready_at: dict[Candidate, float] = field(default_factory=dict)
    _too_small: int | None = None
    """The context window of a model that the input did not fit into; 0 where it is not known."""
    _sent: bool = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.started + self.request.timeout_seconds - self.desk.clock()

    async def run(self) -> LLMResponse:
        """Ask until a model answers, none is worth asking again, or the time is up."""
        self.record = Record(self.request, self.desk, self.tellers, request_hash(self.request), self)
        self.sending = Sending(self.request, self.desk, self.tellers, self.record, self)
        if (found := await self.record.known()) is not None:
            return found
        retry = self.request.retry or _ONE_PASS
        chain = self.chain
        passes = 0
        while True:
            self._sent = False
            for candidate in chain:
                if (response := await self._ask(candidate, retry)) is not None:
                    return response
            passes += self._sent
            # Only those that may do better are asked again.
            chain = [each for each in chain if self._may_do_better(each)]
            if not chain or passes >= retry.max_attempts:
                raise AllModelsFailedError(
                    f"No model answered: {self._failures()}", self.attempts, can_retry=bool(chain)
                )
            chance = self.desk.chance() if self._sent else 0.0
            wait = wait_before_pass(retry, passes, chance, map(self._ready_in, chain))
            if not self._sent:
                wait = max(wait, _LEAST_WAIT)
            if wait >= self.left:
                self.expire(f"the next pass would start in {wait:.3g} s, {max(self.left, 0):.3g} s are left")
            await self.desk.sleep(wait)

    def _may_do_better(self, candidate: Candidate) -> bool:
        return self._action(self.last[candidate]) in (Action.RETRY, Action.ASK_AGAIN)

    def _action(self, attempt: Attempt) -> Action:
        return action_for(attempt.error_class, self.request.policy)

    def _ready_in(self, candidate: Candidate) -> float:
        return self._ready_at.get(candidate, 0.0) - self.desk.clock()

    async def _ask(self, candidate: Candidate, retry: Retry) -> LLMResponse | None:
        if self._ready_in(candidate) > 0:
            # By its own Retry-After or its breaker; others of the chain come first.
            return None
        client = self.desk.clients[candidate.connection]
        if client.closed_to is not None:
            await self.skip(candidate, "missing_key", client.closed_to)
            return None
        if self._too_small is not None:
            window = client.context_window(candidate.model)
            if window is None or not self._too_small or window <= self._too_small:
                await self.skip(
                    candidate, "context_window", f"its context window ({window or 'unknown'}) is not larger"
                )
                return None
        messages = self.request.messages
        for tried in range(1, self.desk.tries + 1):
            if self.left <= 0:
                self.expire("the time was up before the next model could be asked")
            response, content = await self.sending.send(candidate, client, messages)
            if response is not None:
                return response
            failed = self.last.get(candidate)
            if failed is None:
                return None
            if failed.outcome == "skipped":
                return None
            self._sent = True
            if failed.error_class == "timeout" and self.left <= 0:
                self.expire("the time was up while waiting for an answer")
            match self._action(failed):
                case Action.FAIL:
                    raise RequestRejectedError(
                        f"{candidate} rejected the request ({failed.message}); "
                        "no other model is asked: correct the request",
                        self.attempts,
                    )
                case Action.LARGER:
                    self._too_small = client.context_window(candidate.model) or 0
                    return None
                case Action.NEXT:
                    return None
                case Action.ASK_AGAIN:
                    messages = _corrected(messages, content, failed.message or "")
                case Action.RETRY:
                    wait = (failed.retry_after or 0.0) + backoff(retry, tried, self.desk.chance())
                    # A wait that does not fit the deadline, or that a breaker makes vain, is left to the next
                    # candidate, which needs none.
                    if tried == self.desk.tries or wait >= self.left or self._ready_in(candidate) > wait:
                        return None
                    await self.desk.sleep(wait)
        return None

    def patience(self, candidate: Candidate) -> float:
        """Return the seconds for which a call may queue up for a candidate: half of them, if others wait behind."""
        behind = self.chain[self.chain.index(candidate) + 1 :]
        others = [each for each in behind if each not in self.last or self._may_do_better(each)]
        return max(self.left, 0.0) / (2 if others else 1)

    def not_before(self, candidate: Candidate, seconds: float | None) -> None:
        """Note that a candidate can't be asked again within so many seconds."""
        if seconds:
            until = self.desk.clock() + seconds
            self._ready_at[candidate] = max(until, self._ready_at.get(candidate, until))

    async def skip(self, candidate: Candidate, error_class: str, reason: str) -> None:
        """Put on record that a candidate is not asked, and why; once, while it stays so."""
        before = self.last.get(candidate)
        if before is not None and (before.outcome, before.error_class) == ("skipped", error_class):
            return
        await self.record.add(
            Attempt(
                provider=candidate.provider,
                model=candidate.model,
                connection=candidate.connection,
                outcome="skipped",
                error_class=error_class,
                message=reason,
            ),
            candidate,
        )

    def refuse(self, error: BudgetExceededError) -> NoReturn:
        """End the call for want of money."""
        raise BudgetExceededError(str(error), self.attempts) from None

    def give_up(self, message: str) -> NoReturn:
        """End the call for a reason on this side that may pass."""
        raise LLMError(message, self.attempts, can_retry=True)

    def expire(self, reason: str) -> NoReturn:
        """End the call because its time is up."""
        failures = self._failures()
        raise DeadlineExceededError(
            f"No model answered within {round(self.request.timeout_seconds, 2):g} s: {reason}"
            + (f" (last failures: {failures})" if failures else ""),
            self.attempts,
        )

    def _failures(self) -> str:
        """Name the last failure of each; that it was left alone after it says less."""
        told: dict[Candidate, Attempt] = {}
        for candidate, attempt in self.last.items():
            before = [
                one
                for one in self.attempts
                if (one.connection, one.model) == (candidate.connection, candidate.model)
                and one.outcome == "error"
            ]
            told[candidate] = before[-1] if attempt.error_class == "circuit_open" and before else attempt
        return "; ".join(f"{candidate}: {attempt.message}" for candidate, attempt in told.items())


def _corrected(messages: list[Message], content: str, problem: str) -> list[Message]:
    """Tell a model what is wrong with its answer."""
    return [
        *messages,
        Message(role="assistant", content=content),
        Message(
            role="user",
            content=f"That does not satisfy the JSON Schema: {problem}. Answer again, with the JSON object alone.",
        ),
    ]
