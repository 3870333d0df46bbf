"""What happens after a failed attempt: one table from error class to action, and the waits between passes.

This file decides and does nothing: no clock, no network. ``failure.py`` tells the class of an error,
``call.py`` acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Literal

from cognitionos_provider.llm.request import Retry

__all__ = ["POLICY", "Action", "ErrorClass", "action_for", "backoff", "wait_before_pass"]

ErrorClass = Literal[
    "authentication",
    "bad_answer",
    "bad_request",
    "cancelled",
    "conflict",
    "connection",
    "context_window",
    "empty_answer",
    "http_error",
    "missing_key",
    "model_not_found",
    "overloaded",
    "permission",
    "quota",
    "rate_limit",
    "refusal",
    "server_error",
    "timeout",
    "unexpected",
]


class Action(Enum):
    """What a failure leads to."""

    FAIL = "fail"
    """The request itself is wrong: no other candidate is asked and no other pass is made."""
    NEXT = "next"
    """This candidate can't serve the request, now or later: the next one is asked."""
    RETRY = "retry"
    """The next one is asked, and this one is worth another try later."""


POLICY: Mapping[str, Action] = MappingProxyType(
    {
        # The request is wrong, whoever gets it.
        "bad_request": Action.FAIL,  # 400, 422
        "context_window": Action.FAIL,  # 400 that says so
        # It may get better by itself.
        "connection": Action.RETRY,  # refused, reset, unresolvable, dropped
        "timeout": Action.RETRY,  # no answer in time, or 408
        "conflict": Action.RETRY,  # 409
        "rate_limit": Action.RETRY,  # 429
        "overloaded": Action.RETRY,  # 503, 529
        "server_error": Action.RETRY,  # other 5xx
        # It takes somebody to mend it, or another model.
        "missing_key": Action.NEXT,  # nothing is sent
        "authentication": Action.NEXT,  # 401
        "permission": Action.NEXT,  # 403
        "model_not_found": Action.NEXT,  # 404
        "quota": Action.NEXT,  # 402, and 400 or 429 that say the account is used up
        "http_error": Action.NEXT,  # any other status
        "empty_answer": Action.NEXT,  # 200 without text
        "bad_answer": Action.NEXT,  # 200 that can't be read
        "refusal": Action.NEXT,  # 200, stopped by a content filter
        "unexpected": Action.NEXT,  # an error of no known kind, on this side
        # The caller has gone.
        "cancelled": Action.FAIL,
    }
)


def action_for(error_class: str | None) -> Action:
    """Look an error class up; one that the table does not hold is not tried again."""
    return POLICY.get(error_class or "", Action.NEXT)


def backoff(retry: Retry, failures: int) -> float:
    """Seconds to wait after the ``failures``-th failure in a row (1 for the first)."""
    try:
        wait = retry.backoff_seconds * retry.backoff_multiplier ** (failures - 1)
    except OverflowError:
        wait = retry.max_backoff_seconds
    return min(wait, retry.max_backoff_seconds)


def wait_before_pass(retry: Retry, passes: int, retry_afters: Iterable[float | None]) -> float:
    """Seconds to wait after ``passes`` failed passes over the chain.

    At least the smallest ``Retry-After`` (RFC 9110, section 10.2.3) that the candidates of the last pass
    asked for: by then one of them is ready to be asked again.
    """
    asked = [seconds for seconds in retry_afters if seconds is not None]
    return max(backoff(retry, passes), min(asked, default=0.0))
