"""One ``generate`` call: the passes over the chain, the tries of a candidate, the deadline, the record."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from cognitionos_provider.exceptions import AllModelsFailedError, DeadlineExceededError, RequestRejectedError
from cognitionos_provider.llm.chain import Candidate
from cognitionos_provider.llm.failure import Failure, read_failure
from cognitionos_provider.llm.policy import Action, action_for, backoff, wait_before_pass
from cognitionos_provider.llm.pricing import price
from cognitionos_provider.llm.provider import Provider, Wire
from cognitionos_provider.llm.request import Attempt, LLMRequest, LLMResponse, Retry, Usage

if TYPE_CHECKING:
    from decimal import Decimal

    from pydantic_ai.messages import ModelResponse

__all__ = ["Call", "OnAsking", "OnAttempt"]

OnAttempt = Callable[[Attempt], Awaitable[None] | None]
OnAsking = Callable[[str, str], None]

_ONE_PASS = Retry(max_attempts=1)
# How long a cancelled call may take to put its attempt on record.
_FAREWELL_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass
class Call:
    """The state of one call. ``started`` is a time of ``clock``; ``attempt_seconds`` bounds one attempt."""

    request: LLMRequest
    chain: Sequence[Candidate]
    providers: Mapping[str, Provider]
    started: float
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    attempt_seconds: float
    tries: int
    on_attempt: OnAttempt | None
    on_asking: OnAsking | None = None
    attempts: list[Attempt] = field(default_factory=list)
    last: dict[Candidate, Attempt] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.started + self.request.timeout_seconds - self.clock()

    async def run(self) -> LLMResponse:
        """Ask until a model answers, none is worth asking again, or the time is up."""
        retry = self.request.retry or _ONE_PASS
        chain = self.chain
        passes = 0
        while True:
            for candidate in chain:
                if (response := await self._ask(candidate, retry)) is not None:
                    return response
            passes += 1
            # Only those that may do better are asked again.
            chain = [each for each in chain if action_for(self.last[each].error_class) is Action.RETRY]
            if not chain or passes == retry.max_attempts:
                raise AllModelsFailedError(
                    f"No model answered: {self._failures()}", self.attempts, can_retry=bool(chain)
                )
            wait = wait_before_pass(retry, passes, (self.last[each].retry_after for each in chain))
            if wait >= self.left:
                self._expire(f"the next pass would start in {wait:.3g} s, {max(self.left, 0):.3g} s are left")
            await self.sleep(wait)

    async def _ask(self, candidate: Candidate, retry: Retry) -> LLMResponse | None:
        provider = self.providers[candidate.provider]
        if provider.api_key is None:
            reason = f"no API key for {provider.name}; set it on the connection or in the environment"
            await self._record(candidate, "skipped", Failure("missing_key", reason))
            return None
        for tried in range(1, self.tries + 1):
            response = await self._attempt(candidate, provider)
            if response is not None:
                return response
            failed = self.last[candidate]
            action = action_for(failed.error_class)
            if action is Action.FAIL:
                raise RequestRejectedError(
                    f"{candidate} rejected the request ({failed.message}); "
                    "no other model is asked: correct the request",
                    self.attempts,
                )
            wait = max(backoff(retry, tried), failed.retry_after or 0.0)
            # A wait that does not fit the deadline is left to the next candidate, which needs none.
            if action is Action.NEXT or tried == self.tries or wait >= self.left:
                break
            await self.sleep(wait)
        return None

    async def _attempt(self, candidate: Candidate, provider: Provider) -> LLMResponse | None:
        seconds = min(self.left, self.attempt_seconds)
        if seconds <= 0:
            self._expire("the time was up before the next model could be asked")
        if self.on_asking is not None:
            self.on_asking(candidate.provider, candidate.model)
        wire = Wire()
        begun = self.clock()
        answer: ModelResponse | None = None
        try:
            # The SDK's own timeout is per read, so a body that trickles in would never trip it.
            async with asyncio.timeout(seconds):
                answer = await provider.ask(candidate.model, self.request, seconds=seconds, wire=wire)
            failure = _flaw(answer)
        except asyncio.CancelledError:
            gone = Failure("cancelled", "the call was cancelled")
            await self._record(candidate, "error", gone, begun=begun, possibly_billed=wire.sent, hurry=True)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider's answer sets off, the next candidate is asked
            secrets = [each.api_key for each in self.providers.values() if each.api_key]
            failure = read_failure(error, seconds=seconds, secrets=secrets)
        usage, cost = _bill(candidate, answer)
        attempt = await self._record(
            candidate,
            "ok" if failure is None else "error",
            failure,
            begun=begun,
            usage=usage,
            cost=cost,
            possibly_billed=failure is not None
            and failure.http_status is None
            and wire.sent
            and usage is None,
        )
        if failure is None and answer is not None:
            return LLMResponse(
                content=answer.text or "",
                provider=candidate.provider,
                model=candidate.model,
                usage=usage,
                latency_ms=self._milliseconds_since(self.started),
                cost_usd=cost,
                finish_reason=answer.finish_reason,
                attempts=self.attempts,
            )
        if attempt.error_class == "timeout" and self.left <= 0:
            self._expire("the time was up while waiting for an answer")
        return None

    async def _record(
        self,
        candidate: Candidate,
        outcome: Literal["ok", "error", "skipped"],
        failure: Failure | None,
        *,
        begun: float | None = None,
        usage: Usage | None = None,
        cost: Decimal | None = None,
        possibly_billed: bool = False,
        hurry: bool = False,
    ) -> Attempt:
        attempt = Attempt(
            provider=candidate.provider,
            model=candidate.model,
            outcome=outcome,
            error_class=failure.error_class if failure else None,
            http_status=failure.http_status if failure else None,
            latency_ms=0 if begun is None else self._milliseconds_since(begun),
            usage=usage,
            cost_usd=cost,
            retry_after=failure.retry_after if failure else None,
            possibly_billed=possibly_billed,
            message=failure.message if failure else None,
        )
        self.attempts.append(attempt)
        self.last[candidate] = attempt
        if self.on_attempt is None:
            return attempt
        try:
            told = self.on_attempt(attempt)
            if inspect.isawaitable(told):
                async with asyncio.timeout(_FAREWELL_SECONDS if hurry else None):
                    await told
        except Exception:  # noqa: BLE001 - an answer that was paid for is worth more than a line of its record
            _log.exception("on_attempt failed for %s (%s)", candidate, outcome)
        return attempt

    def _milliseconds_since(self, begun: float) -> int:
        return round((self.clock() - begun) * 1000)

    def _expire(self, reason: str) -> NoReturn:
        failures = self._failures()
        raise DeadlineExceededError(
            f"No model answered within {self.request.timeout_seconds:.6g} s: {reason}"
            + (f" (last failures: {failures})" if failures else ""),
            self.attempts,
        )

    def _failures(self) -> str:
        return "; ".join(f"{candidate}: {attempt.message}" for candidate, attempt in self.last.items())


def _flaw(answer: ModelResponse) -> Failure | None:
    """Tell why an answer that came with HTTP 200 is none."""
    if answer.finish_reason == "content_filter":
        return Failure("refusal", "the answer was stopped by the provider's content filter")
    if not (answer.text or "").strip():
        return Failure("empty_answer", f"the answer holds no text (finish reason: {answer.finish_reason})")
    return None


def _bill(candidate: Candidate, answer: ModelResponse | None) -> tuple[Usage | None, Decimal | None]:
    counted = answer.usage if answer is not None else None
    # A server that reports no usage shows as zeros.
    if answer is None or counted is None or not (counted.input_tokens or counted.output_tokens):
        return None, None
    usage = Usage(
        prompt_tokens=counted.input_tokens,
        completion_tokens=counted.output_tokens,
        total_tokens=counted.input_tokens + counted.output_tokens,
    )
    # The answer names the exact version behind an alias; a compatible server may name anything.
    for name in (answer.model_name, candidate.model):
        if name and (cost := price(candidate.provider, name, counted)) is not None:
            return usage, cost
    return usage, None
