"""Every error that this package raises on purpose.

::

    CognitionOSError
    ├── ConfigurationError            a setting is missing, malformed or contradicts another
    ├── DefinitionError               a workflow definition breaks a rule; ``errors`` says where
    ├── TemplateError                 a template can't be parsed, is forbidden, or can't be rendered
    ├── StoreError
    │   ├── NotFoundError             no such workflow, version or execution
    │   └── ConflictError             it exists already with other content, or its state forbids the change
    └── LLMError                      a model call failed; ``attempts`` lists every call that was made
        ├── UnknownModelError         no provider is known for a model name
        ├── RequestRejectedError      the request itself is refused: it is wrong, too large, or against a content policy
        ├── BudgetExceededError       the call would cost more than a budget still allows; nothing was sent
        ├── DeadlineExceededError     the step's time was up before a model answered
        └── AllModelsFailedError      each model of the chain failed, in each pass
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cognitionos_provider.llm.request import Attempt

__all__ = [
    "AllModelsFailedError",
    "BudgetExceededError",
    "CognitionOSError",
    "ConfigurationError",
    "ConflictError",
    "DeadlineExceededError",
    "DefinitionError",
    "LLMError",
    "NotFoundError",
    "RequestRejectedError",
    "StoreError",
    "TemplateError",
    "UnknownModelError",
]


class CognitionOSError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(CognitionOSError):
    """A setting is missing, malformed, or contradicts another."""


class DefinitionError(CognitionOSError, ValueError):
    """A workflow definition breaks a rule.

    ``errors`` is a list of ``(loc, msg)``: the path of the field (``("steps", 1, "depends_on", 0)``) and what
    is wrong with it.
    """

    def __init__(self, errors: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        self.errors = list(errors)
        super().__init__(
            "; ".join(f"{'.'.join(map(str, loc))}: {msg}" if loc else msg for loc, msg in errors)
        )


class TemplateError(CognitionOSError, ValueError):
    """A template can't be parsed, uses something forbidden, or can't be rendered with the values at hand."""


class StoreError(CognitionOSError):
    """Something can't be stored, found or changed."""


class NotFoundError(StoreError):
    """There is no such workflow, version or execution."""


class ConflictError(StoreError):
    """The thing exists already with other content, or its state does not allow the change."""


class LLMError(CognitionOSError):
    """A model call failed.

    ``attempts`` holds every call that was made or skipped, in order; ``can_retry`` tells whether the same call may
    end better at another time.
    """

    can_retry = False

    def __init__(
        self, message: str, attempts: Sequence[Attempt] = (), *, can_retry: bool | None = None
    ) -> None:
        super().__init__(message)
        self.attempts: list[Attempt] = list(attempts)
        if can_retry is not None:
            self.can_retry = can_retry


class UnknownModelError(LLMError):
    """No provider is known for a model name."""


class RequestRejectedError(LLMError):
    """The request itself is refused; no other model that may be asked, and no later try, would help."""


class BudgetExceededError(LLMError):
    """The call would cost more than a budget still allows. Nothing was sent, and no later try would help."""


class DeadlineExceededError(LLMError):
    """The time given to the call was up before a model answered."""

    can_retry = True


class AllModelsFailedError(LLMError):
    """Each model of the chain failed, in each pass that the retry policy allowed."""
