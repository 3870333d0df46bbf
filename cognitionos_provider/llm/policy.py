"""What happens after a failed attempt: one table from error class to action, and the waits between tries.

This file decides and does nothing: no clock, no network. ``failure.py`` tells the class of an error,
``call.py`` acts. A request may change the action of a class (``LLMRequest.policy``); the rest of a row is the
same for everybody, since breakers are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cognitionos_provider.llm.request import Retry

__all__ = [
    "POLICY",
    "Action",
    "ErrorClass",
    "Fault",
    "Rule",
    "action_for",
    "backoff",
    "rule_for",
    "wait_before_pass",
]

Fault = Literal[
    "authentication",
    "bad_answer",
    "bad_request",
    "conflict",
    "connection",
    "context_window",
    "empty_answer",
    "http_error",
    "model_not_found",
    "overloaded",
    "permission",
    "quota",
    "rate_limit",
    "refusal",
    "schema",
    "server_error",
    "timeout",
    "unexpected",
]
"""How a call can fail; what a request's own policy can change."""

ErrorClass = (
    Fault
    | Literal[
        "budget",
        "cached",
        "cancelled",
        "circuit_open",
        "journal",
        "lost",
        "missing_key",
        "no_room",
        "unpriced",
    ]
)
"""What an attempt's ``error_class`` can be: also why a call was not made, and how one was lost."""


class Action(Enum):
    """What a failure leads to."""

    FAIL = "fail"
    """The request itself is wrong: no other candidate is asked and no other pass is made."""
    NEXT = "next"
    """This candidate can't serve the request, now or later: the next one is asked."""
    RETRY = "retry"
    """This one is asked again after a wait, then the next one; and this one again in the next pass."""
    LARGER = "larger"
    """Only a candidate whose context window is known to be larger is asked."""
    ASK_AGAIN = "ask_again"
    """This one is told what is wrong with its answer and asked again, without a wait; then the next one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    ``breaker``: ``failure`` counts towards opening the candidate's breaker, ``opens`` opens it at once (it takes
    somebody to mend it), ``alive`` shows that the provider answers, ``nothing`` tells nothing about it.
    ``cooldown`` is the least number of seconds for which the breaker then stays open. ``alert`` logs it as
    critical.
    """

    action: Action
    breaker: Literal["failure", "opens", "alive", "nothing"] = "alive"
    cooldown: float | None = None
    alert: bool = False


_MEND = 60.0
_USED_UP = 600.0

POLICY: Mapping[ErrorClass, Rule] = MappingProxyType(
    {
        # The request is wrong, whoever gets it.
        "bad_request": Rule(Action.FAIL),  # 400, 422
        "refusal": Rule(Action.FAIL),  # 200 or 400, stopped by a content policy
        "context_window": Rule(Action.LARGER),  # 400 that says so
        # It may get better by itself.
        "rate_limit": Rule(Action.RETRY, "failure"),  # 429
        "overloaded": Rule(Action.RETRY, "failure"),  # 503, 529
        "server_error": Rule(Action.RETRY, "failure"),  # other 5xx
        "connection": Rule(Action.RETRY, "failure"),  # refused, reset, unresolvable, dropped
        "timeout": Rule(Action.RETRY, "failure"),  # no answer in time, or 408
        "conflict": Rule(Action.RETRY),  # 409
        "schema": Rule(Action.ASK_AGAIN),  # 200 that breaks output_schema
        # It takes somebody to mend it, or another model.
        "authentication": Rule(Action.NEXT, "opens", _MEND, alert=True),  # 401
        "permission": Rule(Action.NEXT, "opens", _MEND, alert=True),  # 403
        "model_not_found": Rule(Action.NEXT, "opens", _MEND, alert=True),  # 404
        "quota": Rule(Action.NEXT, "opens", _USED_UP, alert=True),  # 402, and 400 or 429 that say so
        "http_error": Rule(Action.NEXT),  # any other status
        "empty_answer": Rule(Action.NEXT),  # 200 without text
        "bad_answer": Rule(Action.NEXT, "failure"),  # 200 that can't be read
        "unexpected": Rule(Action.NEXT, "nothing"),  # an error of no known kind, on this side
        # Nothing is sent.
        "missing_key": Rule(Action.NEXT, "nothing"),
        "unpriced": Rule(Action.NEXT, "nothing"),  # no known price, under a budget
        "circuit_open": Rule(Action.RETRY, "nothing"),  # its breaker is open
        "no_room": Rule(Action.RETRY, "nothing"),  # its limits leave no room within the deadline
        "budget": Rule(Action.FAIL, "nothing"),  # a budget has not enough left
        "journal": Rule(Action.FAIL, "nothing"),  # the call could not be put on record beforehand
        "cached": Rule(Action.FAIL, "nothing"),  # answered from the cache: not a failure
        # The caller has gone, or the process that made the call.
        "cancelled": Rule(Action.FAIL, "nothing"),
        "lost": Rule(Action.RETRY, "nothing"),
    }
)

_NO_POLICY: Mapping[Fault, Action] = MappingProxyType({})
_UNKNOWN = Rule(Action.NEXT, "nothing")


def rule_for(error_class: str | None) -> Rule:
    """Look an error class up; one that the table does not hold is not tried again."""
    return POLICY.get(error_class, _UNKNOWN)  # type: ignore[call-overload, no-any-return]  # any text is looked up


def action_for(error_class: str | None, policy: Mapping[Fault, Action] = _NO_POLICY) -> Action:
    """Tell what an error class leads to, for a request with this policy of its own."""
    own = policy.get(error_class)  # type: ignore[call-overload]
    return own if own is not None else rule_for(error_class).action


def backoff(retry: Retry, failures: int, chance: float) -> float:
    """Seconds to wait after the ``failures``-th failure in a row (1 for the first), with full jitter.

    ``chance`` is a random number from 0 to 1. Exponential backoff with full jitter: Marc Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    try:
        most = retry.backoff_seconds * retry.backoff_multiplier ** (failures - 1)
    except OverflowError:
        most = retry.max_backoff_seconds
    return chance * min(most, retry.max_backoff_seconds)


def wait_before_pass(retry: Retry, passes: int, chance: float, ready_in: Iterable[float]) -> float:
    """Seconds to wait after ``passes`` failed passes over the chain.

    At least until the first candidate of the next pass may be asked again: ``ready_in`` holds the seconds until
    then for each, by its own ``Retry-After`` (RFC 9110, section 10.2.3) or its breaker.
    """
    return max(backoff(retry, passes, chance), min(ready_in, default=0.0))
