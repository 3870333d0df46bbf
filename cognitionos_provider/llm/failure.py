"""What went wrong with a call: any exception of pydantic-ai, the SDKs or the transport, as one small value.

pydantic-ai types its errors (``pydantic_ai/exceptions.py``), also where the status alone would mislead:
an account that is used up is a 429 at OpenAI and a 400 at Anthropic.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cognitionos_provider.llm.policy import ErrorClass

if TYPE_CHECKING:
    from pydantic_ai.exceptions import ModelAPIError

__all__ = ["Failure", "read_failure", "root_cause", "short"]

_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call failed. ``retry_after`` is in seconds; ``message`` is one short line without any key."""

    error_class: ErrorClass
    message: str
    http_status: int | None = None
    retry_after: float | None = None


def short(text: str, secrets: Iterable[str]) -> str:
    """Make a line of at most 300 characters that is safe to log and to store, without any of ``secrets``."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


def root_cause(error: BaseException) -> str:
    """Name what lies below an error that only says that it failed, such as ``connection refused``."""
    reason = str(error) or type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            # Resolver errors are negative and have their own text.
            return (cause.strerror or reason) if cause.errno < 0 else os.strerror(cause.errno).lower()
        reason = str(cause) or type(cause).__name__
    return reason


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def read_failure(error: Exception, *, seconds: float, secrets: Iterable[str]) -> Failure:
    """Classify what a call raised. ``seconds`` is the time that it was given, ``secrets`` what to hide."""
    from pydantic_ai import exceptions as ai

    secrets = tuple(secrets)
    if isinstance(error, (TimeoutError, ai.ModelTimeoutError, ai.ModelRequestTimeout)):
        phase = " while connecting" if getattr(error, "phase", None) == "connect" else ""
        return Failure("timeout", f"no answer within {seconds:.3g} s{phase}")
    if isinstance(error, ai.ModelHTTPError):
        return Failure(
            _http_class(error),
            short(f"HTTP {error.status_code}: {_provider_message(error)}", secrets),
            error.status_code,
            error.retry_after,
        )
    if isinstance(error, ai.ModelConnectionError):
        return Failure("connection", short(root_cause(error), secrets))
    if isinstance(error, ai.ContentFilterError):
        return Failure("refusal", short(error.message, secrets))
    if isinstance(error, ai.ModelAPIError):
        status = getattr(error.__cause__, "status_code", None)
        if isinstance(status, int) and 300 <= status < 400:
            # Redirects are not followed: the key would travel to an address that nobody configured.
            return Failure(
                "http_error", f"HTTP {status}: redirected; set the base URL to the final address", status
            )
        return Failure("bad_answer", short(error.message, secrets))
    if isinstance(error, ai.UnexpectedModelBehavior):
        return Failure("bad_answer", short(error.message, secrets))
    return Failure("unexpected", short(f"{type(error).__name__}: {error}", secrets))


@cache
def _http_classes() -> tuple[tuple[type[ModelAPIError], ErrorClass], ...]:
    from pydantic_ai import exceptions as ai

    # Subclasses stand before their bases.
    return (
        (ai.ModelQuotaExceededError, "quota"),
        (ai.ModelRateLimitError, "rate_limit"),
        (ai.ModelUnavailableError, "overloaded"),
        (ai.ModelServerError, "server_error"),
        (ai.ModelContextWindowExceededError, "context_window"),
        (ai.ModelAuthenticationError, "authentication"),
        (ai.ModelNotFoundError, "model_not_found"),
        (ai.ModelRequestRejectedError, "bad_request"),
    )


# Statuses that pydantic-ai puts into no category, or into a wider one than the policy's.
_STATUS_CLASSES: dict[int, ErrorClass] = {403: "permission", 408: "timeout", 409: "conflict"}

# A 400 by which OpenAI and servers like it refuse for their content policy.
_POLICY_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})


def _http_class(error: ModelAPIError) -> ErrorClass:
    status: int = getattr(error, "status_code", 0)
    if error.provider_error_code in _POLICY_CODES or error.provider_error_type in _POLICY_CODES:
        return "refusal"
    if status in _STATUS_CLASSES:
        return _STATUS_CLASSES[status]
    return next((name for kind, name in _http_classes() if isinstance(error, kind)), "http_error")


def _provider_message(error: ModelAPIError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(body) if body else "no further reason given"
